"""Every chart: a pure function from results to a plotly figure and the sentence that says what it shows."""

from app.figures.base import *  # noqa: F403
from app.figures.base import block_axis as _block_axis  # noqa: F401
from app.figures.base import empty_figure as _figure  # noqa: F401
from app.figures.compare import draw_differences, draw_perplexities  # noqa: F401
from app.figures.plan import draw_schedule  # noqa: F401
from app.figures.profile import draw_profile, outliers  # noqa: F401

"""What the app says: numbers with their units, titles, and results in sentences, all under this one name.

Knows nothing about streamlit or plotly.
"""

from app.wording.beside import change_title, how_sure, models_apart, profiles_apart
from app.wording.inside import first_blocks, predicted_loss
from app.wording.jobs import closes, progress, was_closed
from app.wording.markup import verbatim, without_colours
from app.wording.numbers import (
    change,
    counted,
    draws,
    duration,
    fewer,
    flops,
    interval,
    joined,
    memory,
    millions,
    parameters,
    percent,
    times,
    typeset,
    unparted,
    within_sentence,
)
from app.wording.profiles import (
    CLOUD_READING,
    LENS_READING,
    change_reading,
    outlier_note,
    profile_name,
    profiled,
    two_depths,
)
from app.wording.results import (
    BODY_READING,
    cost,
    cost_against,
    deciding,
    evidence,
    healed,
    kept_model,
    memory_taken,
    noise,
    noise_reading,
    other_way,
    precision_reading,
    preview_verdict,
    previewed,
    reduction,
    repaired,
    sequential_or_one_shot,
    speed,
    spread_of_cut,
    study_reading,
    verdict,
    window_reading,
)
from app.wording.shrink import (
    TRIED_READING,
    answer,
    beside_dense,
    beside_winner,
    differences,
    known,
    opened,
    shrunk,
)
from app.wording.studies import (
    FRONTIER_READING,
    INT8_READING,
    NOT_RUN,
    RANKING_READING,
    Named,
    baseline_name,
    choices,
    choices_reading,
    frontier,
    known_issues,
    map_reading,
    models,
    random_band,
    ranking,
    trials_size,
    windows_of_both,
)
from app.wording.titles import (
    UNREADABLE,
    budgets_line,
    plan_line,
    plan_score,
    run_line,
    text_title,
    title,
)
from app.wording.units import (
    BRANCHES,
    OFF,
    PARTS,
    PREDICTIONS,
    PREDICTIONS_READING,
    UNITS_READING,
    agreement_of_units,
    as_perplexity,
    branch_told,
    in_nats,
    inside_blocks,
    part_gone,
    part_title,
    times_perplexity,
    units_agreement,
    units_found,
    units_inside,
    units_off,
    units_told,
)
from app.wording.writing import ILLUSTRATION, READ_READING, WRITTEN_READING, agreement, parting

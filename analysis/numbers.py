"""Numbers as people write them: in flags, in entries of contests, in addresses of pages.

The one place that reads a number from a text. Knows nothing about what a number is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from analysis.errors import PlanError

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_EXACT = 2**53
"""Below it every whole number is a float of its own."""


def read_number(text: str) -> float | None:
    """The finite number that a text says, or ``None`` where it says none."""
    said = text.strip()
    number = float(said) if _NUMBER.fullmatch(said) else math.nan
    return number if math.isfinite(number) else None


def read_whole(text: str) -> int | None:
    """The whole number of at most 30 digits that a text says, or ``None`` where it says none."""
    said = text.strip()
    if _WHOLE.fullmatch(said):  # digits as they stand: a float holds 15 of them
        return int(said)
    number = read_number(said)
    return int(number) if number is not None and number.is_integer() and abs(number) < _EXACT else None


def as_briefly(value: float) -> str:
    """Write a number as briefly as it can be read back as it was."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def as_ranges(numbers: Sequence[int]) -> str:
    """Write whole numbers in order as ranges, such as ``0, 3-6, 9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


LEAST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1
"""What torch draws by."""


def _check_seed(seed: int) -> int:
    if not LEAST_SEED <= seed <= LARGEST_SEED:
        raise PlanError(
            f"A seed must be a whole number from {LEAST_SEED:,} to {LARGEST_SEED:,}, but has "
            f"{len(str(abs(seed)))} digits: choose a smaller one."
        )
    return seed


Seed = Annotated[int, AfterValidator(_check_seed)]
"""A whole number that something is drawn by (``PlanError`` for one that nothing can be drawn by)."""

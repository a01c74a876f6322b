"""A score of units, and the list of all of them: a name for each, and one file.

Knows nothing about any one score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from analysis.device import widen
from analysis.late import torch
from analysis.units import Units
from slicing.inner.taylor import Salience
from slicing.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UnitSite:
    """The units of one kind in a branch, and what was measured where they write the stream."""

    units: Units
    weight: Tensor
    """(D, F) of the writer."""
    moment: Tensor
    """C, (F, F) fp64: the mean over tokens of ``z z'``, with ``z`` what the writer reads."""
    curvature: Tensor | None = None
    """G, (D, D): see ``analysis.curvature``; there for scores that ask for it."""
    slopes: Tensor | None = None
    """(F,): the mean over tokens of ``(z_j (W' g)_j)²``, with ``g`` the gradient of the summed loss at what
    is written; there for scores that ask for ``slopes``."""
    salience: Salience | None = None
    """What the weights of the branch count for; there for scores that ask for ``gradients``."""
    place: tuple[int, int] = (0, 0)
    """Block and branch."""

    @property
    def columns(self) -> Tensor:
        """The columns of the writer that every unit has, (units, columns per unit)."""
        (places,) = self.units.columns.values()
        return torch.as_tensor(places, device=self.weight.device)

    def summed(self, each: Tensor) -> np.ndarray:
        """The sum over the columns of every unit of what each column has, (F,) -> (units,)."""
        return widen(each)[self.columns.to(each.device)].sum(dim=1).cpu().numpy()


class UnitScore(ABC):
    """A way to say what a unit is worth; the least go first."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    cite: ClassVar[str]
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own; empty for one that is there to be
    beaten."""
    relative: ClassVar[bool] = False
    """Whether it looks at what is read relative to the stream: else the massive first token owns it."""
    asks: ClassVar[frozenset[str]] = frozenset()
    """What it needs beside weights and moments: ``curvature``, ``slopes``, ``gradients``."""

    @abstractmethod
    def score(self, site: UnitSite) -> np.ndarray:
        """(units,): higher means worth more."""


ScoreType = TypeVar("ScoreType", bound=UnitScore)
UNIT_SCORES: Registry[UnitScore] = Registry("score of units")
find_unit_score = UNIT_SCORES.find


def unit_score(cls: type[ScoreType]) -> type[ScoreType]:
    """Register a score: steps offer it, and the tests run it."""
    UNIT_SCORES.put(cls.name, cls())
    return cls

"""A way to choose the directions of the stream that slicing keeps, and the list of all of them.

Knows nothing about any one of them, or about models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from analysis.bases import Moment, Seen
from analysis.device import alike, widen
from slicing.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Basis(ABC):
    """A rule that gives an orthonormal basis of the stream, whose leading directions are kept."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    cite: ClassVar[str] = ""
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own."""
    known_issue: ClassVar[str] = ""
    """What is known against it, in one sentence."""
    version: ClassVar[int] = 1
    """Counts what it has done under its name. It grows when the same name finds something else."""
    control: ClassVar[bool] = False
    """Whether it is there to be beaten."""
    drawn: ClassVar[bool] = False
    """Whether it is drawn at random."""
    quick: ClassVar[bool] = True
    """Whether it is found within seconds at every place."""
    tokens: ClassVar[int] = 0
    """So many tokens of the stream it looks at, beside the second moment of all."""
    anywhere: ClassVar[bool] = False
    """Whether it finds the same directions in whatever basis the stream is given to it."""

    @abstractmethod
    def directions(self, seen: Seen, width: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """An orthonormal basis as columns (D, D), and the energy along each, (D,), fp64.

        The basis is in fp64, or in fp32 where it was found by products in fp32. Its first ``width`` columns
        are kept. ``draw`` is the number of a random draw.
        """

    def turned(self, seen: Seen, width: int, rotation: Tensor, draw: int = 0) -> tuple[Tensor, Tensor, float]:
        """The turn (D, D) from a stream in the coordinates of ``rotation`` (D, D) to the basis, the basis in
        those of the dense model (D, D), and the share of the energy beyond its leading ``width``.

        Both are in the dtype of ``directions``. ``seen`` is in the coordinates of ``rotation``.
        """
        if self.anywhere:
            turn, energies = self.directions(seen, width, draw)
            return turn, alike(rotation, turn) @ turn, beyond(energies, width)
        total = seen.second.moment()
        wide = widen(rotation, total.device)
        tokens = None if seen.tokens is None else widen(seen.tokens, total.device) @ wide.T
        there = Seen(Moment(wide @ total @ wide.T), tokens, seen.place)
        basis, energies = self.directions(there, width, draw)
        return wide.T @ basis, basis, beyond(energies, width)


def beyond(energies: Tensor, width: int) -> float:
    """The share of ``energies`` (D,) beyond the first ``width``."""
    return float(energies[width:].sum() / energies.sum())


def along(basis: Tensor, moment: Tensor) -> Tensor:
    """The energy of a stream of this second ``moment`` (D, D) along the columns of ``basis`` (D, W), (W,)."""
    return (basis * (moment @ basis)).sum(0).clamp_min(0.0)


BasisType = TypeVar("BasisType", bound=Basis)
BASES: Registry[Basis] = Registry("basis")
find_basis = BASES.find


def basis(cls: type[BasisType]) -> type[BasisType]:
    """Register a basis: it then appears in the app, the command line and the tests."""
    BASES.put(cls.name, cls())
    return cls

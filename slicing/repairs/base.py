"""A repair of cuts, and the list of all of them: a name for each, and one file.

Knows nothing about any one repair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from analysis.anatomy import blocks
from analysis.errors import UnsupportedError
from analysis.late import no_grad
from analysis.needs import MemoryNeed
from analysis.stream import BlockStream
from slicing.calibration import Fit
from slicing.depth.layout import Layout
from slicing.registry import Registry
from slicing.repair import SublayerRepair

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from slicing.dense_states import DenseStates

Repaired = tuple["PreTrainedModel", tuple[SublayerRepair, ...]]
"""A model whose cuts are repaired, and how near each fit comes to the dense stream."""


@dataclass(frozen=True)
class Cuts:
    """A model without some of its blocks, and all that a repair may look at."""

    dense: PreTrainedModel
    reduced: PreTrainedModel
    """As ``reduce_blocks`` makes it; it is not changed."""
    layout: Layout
    windows: Tensor
    """(N, T) of token ids."""
    held: int
    """So many of the last windows join no fit."""
    tell: Callable[[int, int], None] = lambda done, total: None
    budget: tuple[int, int] | None = None
    """Bytes that activations may take on (device, host), by default a third of what is free."""
    kept: DenseStates | None = None
    """The dense stream, as far as earlier fits and slicings have left it."""

    @no_grad
    def walk(self, close: Callable[[Cuts, BlockStream, BlockStream, int], SublayerRepair | None]) -> Any:
        """Carry two streams from block to block, and give what ``close`` tells of those that it repairs.

        ``close(cuts, dense, short, place)`` passes ``short``, the reduced model's stream, through its block
        at ``place``; ``dense`` is already where the next block begins, behind the cut.
        """
        dense = BlockStream(self.dense, self.windows, self.budget)
        short, passed = dense.beside(), 0
        told: list[SublayerRepair] = []
        for place, first in enumerate(self.layout.following):
            for block in range(passed, first):
                dense.through(blocks(self.dense)[block], block)
            passed = first
            if found := close(self, dense, short, place):
                told.append(found)
            self.tell(first, self.layout.blocks)
        return tuple(told)


class CutRepair(ABC):
    """A way to repair the cuts that removed blocks leave, and to make up for blocks that became one."""

    name: ClassVar[str]
    title: ClassVar[str]
    cite: ClassVar[str] = "shopkhoev2025replaceme"
    """A key of ``app.citations.ENTRIES``, or a BibTeX entry of its own."""
    version: ClassVar[int] = 1
    """Counts what it has done under its name. It grows when the same name fits something else."""
    fits: ClassVar[frozenset[Fit]] = frozenset()
    """What it fits to calibration text, where that can be too little."""

    trains: ClassVar[bool] = False
    """Whether it trains blocks, which takes far longer than a fit in closed form."""

    plain: ClassVar[bool] = True
    """Whether a repaired model is one of its architecture still, which every tool opens."""
    strength: ClassVar[int] = 1
    """The larger, the more it wins back as far as was measured; such a one is tried first."""

    def why_not(self, model: PreTrainedModel) -> str:
        """One sentence that says why it cannot repair models of this family; empty where it can."""
        return ""

    def check(self, model: PreTrainedModel) -> None:
        """Raise ``UnsupportedError`` where it cannot repair models of this family."""
        if reason := self.why_not(model):
            raise UnsupportedError(reason)

    def has_work(self, layout: Layout) -> bool:
        """Tell whether anything can be repaired: in front of a cut at the very start there is no block."""
        return bool(layout.seams)

    @abstractmethod
    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """The peak of memory with ``tokens`` in batches of ``batch``, from that without a repair."""

    @abstractmethod
    def close(self, cuts: Cuts) -> Repaired:
        """The model with its cuts repaired; neither of the two models in ``cuts`` changes."""


RepairType = TypeVar("RepairType", bound=CutRepair)
REPAIRS: Registry[CutRepair] = Registry("repair of cuts", "none")
find_repair = REPAIRS.find


def repair(cls: type[RepairType]) -> type[RepairType]:
    """Register a repair: it then appears in entries, the command line, the app and the tests."""
    REPAIRS.put(cls.name, cls())
    return cls

"""The residual stream over windows of text, carried through a model block by block.

One block is called at a time, with the context (positions, masks) that the model's own decoder makes for it,
so every family's rules hold, and a model may be spread over devices or kept elsewhere by accelerate. Knows
nothing about what is done with the stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from analysis.activations import Activations, budgets
from analysis.device import on_device
from analysis.evaluate import batches_of
from analysis.hooks import entering_states, returns_tuple
from analysis.late import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

Contexts = list[dict[str, Any]]
"""What every block of a model is called with beside the states."""


class BlockStream:
    """A stream (B, T, D), in batches that are stored on the device, in host memory or on disk.

    It begins as what enters block 0.
    """

    def __init__(
        self,
        model: Any,
        windows: Tensor,
        budget: tuple[int, int] | None = None,
        begin: Callable[[Tensor], Tensor] = lambda entering: entering.clone(),
    ) -> None:
        """``windows`` (N, T) of token ids; ``budget``: bytes that may be stored on (device, host), by default
        a third of what is free. ``begin`` makes of what enters block 0 what the stream begins with.
        """
        self.model, self.device = model, model.device
        self.budget = budgets(self.device) if budget is None else budget
        self.batches = list(batches_of(windows, self.device))
        """Token ids, (B, T) each."""
        self.states = Activations(self.device, *self.budget)
        self.contexts: list[Contexts] = []
        for states, context in _entering(model, self.batches):
            self.states.append(begin(states))
            self.contexts.append(context)

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.states)

    def beside(self, model: Any | None = None) -> BlockStream:
        """A second stream over the same windows, which begins where this one is.

        It may run through another ``model``, whose blocks have contexts of their own.
        """
        other = copy.copy(self)
        other.states = Activations(self.device, *self.budget)
        for index in range(len(self)):
            other.states.append(self.at(index).clone())
        if model is not None and model is not self.model:
            other.model = model
            other.contexts = [context for _, context in _entering(model, self.batches)]
        return other

    def at(self, index: int) -> Tensor:
        """A batch, (B, T, D), where the stream is now; it stays as it is."""
        return self.states.look(index, self.device)

    def change(self, change: Callable[[int, Tensor], Tensor]) -> None:
        """Put ``change(index, states)`` in the place of every batch, one after the other."""
        for index in range(len(self)):
            self.states[index] = change(index, self.states.take(index, self.device))

    def move(self, device: torch.device) -> None:
        """Go on on ``device``, where the next block is."""
        self.device = device

    def context(self, index: int, place: int) -> dict[str, Any]:
        """Return what the block at ``place`` of the model is called with for a batch."""
        return on_device(self.contexts[index][place], self.device)

    def called(self, block: nn.Module, place: int, index: int, states: Tensor) -> Tensor:
        """Return what ``block`` makes of a batch of ``states``, called like the block at ``place``."""
        # Where accelerate keeps a block elsewhere, calling it brings it here.
        output = block(states, **self.context(index, place))
        return output[0] if isinstance(output, tuple) else output

    def through(self, block: nn.Module, place: int) -> None:
        """Pass the stream through ``block``, called as the model's block at ``place`` is."""
        self.change(lambda index, states: self.called(block, place, index, states))

    def held(self, index: int, last: int) -> int:
        """Count the windows of a batch that are among the ``last`` of all."""
        sizes = [len(batch) for batch in self.batches]
        return min(sizes[index], max(0, last - sum(sizes[index + 1 :])))


def _entering(model: Any, batches: list[Tensor]) -> Iterator[tuple[Tensor, Contexts]]:
    """Yield what enters block 0, (B, T, D), and every block's context, for each batch of token ids."""
    tuples = returns_tuple(model, batches[0][:1, :8].to(model.device))
    known: dict[torch.Size, Contexts] = {}
    for batch in batches:
        states, context = entering_states(model, batch.to(model.device), tuples)
        # Positions and masks depend on the batch's shape alone: windows have no padding.
        yield states, known.setdefault(batch.shape, context)

"""The residual stream over windows of text, carried through a model block by block.

One block is called at a time, with the context (positions, masks) that the model's own decoder makes for it,
so every family's rules hold, and a model may be spread over devices or kept elsewhere by accelerate. Knows
nothing about what is done with the stream.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from analysis.activations import Activations, budgets
from analysis.anatomy import blocks, decoder, family_config, why_not_sliceable
from analysis.batches import batch_size, batches_of
from analysis.device import HOST, batch_tokens, comes_and_goes, memory_of, on_device, present
from analysis.hooks import entering_states, going_on_from, returns_tuple
from analysis.late import inference_mode, torch
from analysis.needs import engine_room
from analysis.precision import Precision, calibration, matmuls
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor, nn

Contexts = list[dict[str, Any]]
"""What every block of a model is called with beside the states."""


class Adding(Protocol):
    """A sub-layer, of a dense model or of one that was made of it."""

    def added(self, states: Tensor, context: dict[str, Any], /) -> Tensor:
        """Return what it adds to the stream, (B, T, D); ``context`` is what its block is called with."""
        ...


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
        precision: Precision | None = None,
    ) -> None:
        """``windows`` (N, T) of token ids; ``budget``: bytes that may be stored on (device, host), by default
        a third of what is free, and no more than the work itself leaves. ``begin`` makes of what enters block
        0 what the stream begins with. ``precision``: that of the model's products, by default that of
        calibration.
        """
        self.model, self.device = model, model.device
        self.precision: Precision = precision or calibration()
        self.budget = budget or _budget_beside(model)
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

    def again(self, model: Any, begin: Callable[[Tensor], Tensor]) -> BlockStream:
        """A stream over the same windows through ``model``, which begins as ``begin`` makes of what enters
        block 0.
        """
        found = BlockStream(model, torch.cat(self.batches), self.budget, begin, self.precision)
        if model is self.model:
            found.contexts = self.contexts
        return found

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
        with self.multiplying():
            output = block(states, **self.context(index, place))
        return _as_precise(output[0] if isinstance(output, tuple) else output, states)

    def added(self, sublayer: Adding, place: int, index: int, states: Tensor) -> Tensor:
        """Return what ``sublayer``, one of the block at ``place``, adds to a batch of ``states``."""
        with self.multiplying():
            return _as_precise(sublayer.added(states, self.context(index, place)), states)

    def multiplying(self) -> AbstractContextManager[object]:
        """Let the model multiply in the stream's precision inside the ``with``."""
        return matmuls(self.precision, self.device, self.model.dtype)

    def through(self, block: nn.Module, place: int) -> None:
        """Pass the stream through ``block``, called as the model's block at ``place`` is."""
        self.change(lambda index, states: self.called(block, place, index, states))

    def held(self, index: int, last: int) -> int:
        """Count the windows of a batch that are among the ``last`` of all."""
        sizes = [len(batch) for batch in self.batches]
        return min(sizes[index], max(0, last - sum(sizes[index + 1 :])))


def _as_precise(made: Tensor, states: Tensor) -> Tensor:
    """What was made of ``states``, in their dtype if its own is less precise."""
    return made.to(torch.promote_types(made.dtype, states.dtype))


def _budget_beside(model: Any) -> tuple[int, int]:
    """Bytes for the stream on (device, host): a third of what is free, and on a card no more than whatever
    work on the model leaves there.
    """
    device = model.device
    card, host = budgets(device)
    if device.type == "cuda":
        room = engine_room(model, model.dtype.itemsize, batch_tokens(device))
        card = min(card, budgets(device, room)[0])
    return card, host


def _entering(model: Any, batches: list[Tensor]) -> Iterator[tuple[Tensor, Contexts]]:
    """Yield what enters block 0, (B, T, D), and every block's context, for each batch of token ids."""
    tuples = returns_tuple(model, batches[0][:1, :8].to(model.device))
    known: dict[torch.Size, Contexts] = {}
    for batch in batches:
        states, context = entering_states(model, batch.to(model.device), tuples)
        # Positions and masks depend on the batch's shape alone: windows have no padding.
        yield states, known.setdefault(batch.shape, context)


@inference_mode
def pass_windows(
    model: Any,
    windows: Tensor,
    end: Callable[[slice, Any], None],
    begin: Callable[[slice], None] = lambda rows: None,
    progress: Progress = no_progress,
    phase: str = "",
    kept: int = 0,
    run: Any = None,
) -> None:
    """Pass windows (N, T) of token ids through the decoder, batch by batch: a forward pass without the head.

    ``end`` gets the rows of each batch, in order, and what ``run`` gives: the decoder, or the whole model.
    ``begin`` gets the rows before, whenever the batch goes on through some blocks.

    Weights that rest elsewhere take longer to come than a batch takes to pass. So each block comes once, for
    as many batches as a third of the host's free memory holds, with ``kept`` bytes beside the stream of each.
    """
    device, run = model.device, run or decoder(model)
    size = batch_size(windows, device)
    if not comes_block_by_block(model):
        for first in range(0, len(windows), size):
            batch = windows[first : first + size]
            rows = slice(first, first + len(batch))
            begin(rows)
            end(rows, run(batch.to(device), use_cache=False))
            progress(phase, rows.stop, len(windows))
        return
    width = model.get_input_embeddings().weight.shape[1]
    held = size * windows.shape[1] * width * model.dtype.itemsize + kept
    together = size * max(1, memory_of(HOST)[0] // 3 // held)
    done, steps = 0, len(windows) * len(blocks(model))
    for first in range(0, len(windows), together):
        for rows in _in_turn(model, run, windows[first : first + together], first, begin, end):
            done += rows.stop - rows.start
            progress(phase, done, steps)


def comes_block_by_block(model: Any) -> bool:
    """Tell whether weights of blocks rest elsewhere, in a family whose blocks can be called one by one."""
    if not hasattr(model, "hf_device_map") or why_not_sliceable(family_config(model.config)) is not None:
        return False
    return any(comes_and_goes(module) for block in blocks(model) for module in block.modules())


def _in_turn(
    model: Any,
    run: Any,
    windows: Tensor,
    first: int,
    begin: Callable[[slice], None],
    end: Callable[[slice, Any], None],
) -> Iterator[slice]:
    """Pass all batches of ``windows``, which are those from ``first`` on, through one block after the other.

    Yields the rows of a batch when it has passed a block.
    """
    stream, every = BlockStream(model, windows, precision="exact"), blocks(model)
    tuples = returns_tuple(model, windows[:1, :8].to(model.device))
    starts = itertools.accumulate((len(batch) for batch in stream.batches), initial=first)
    rows = list(itertools.starmap(slice, itertools.pairwise(starts)))
    for place, block in enumerate(every[:-1]):
        with present(block) as device:
            stream.move(device)
            for index, each in enumerate(rows):
                begin(each)
                states = stream.states.take(index, device)
                stream.states[index] = stream.called(block, place, index, states)
                yield each
    # The decoder itself ends each batch: what leaves the last block is needed no more.
    with present(every[-1]):
        for index, each in enumerate(rows):
            begin(each)
            states = stream.states.take(index, model.device)
            with going_on_from(model, len(every) - 1, states, tuples):
                output = run(stream.batches[index].to(model.device), use_cache=False)
            end(each, output)
            yield each

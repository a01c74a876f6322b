"""What is left inside the blocks, fitted anew: block by block, so that the cut model follows the dense one.

Three fits, each a ridge regression with a share of the windows held out to choose its strength:

- ``local``: the writers of a cut sub-layer, on the *dense* stream, towards what the dense sub-layer writes.
- ``readers``: a matrix (D, D) on what the readers of a sub-layer are given, towards what the dense ones are
  given. It is multiplied into their weights: no parameter more.
- ``writers``: the writers, on the stream that the cut model really has, towards the dense stream behind the
  sub-layer, pulled to what is there.

Tokens are weighted by the inverse RMS of the dense stream: the massive first token would own the fits.
Knows nothing about how units were chosen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.activations import Activations, budgets
from analysis.anatomy import blocks
from analysis.batches import tokens_at_a_time
from analysis.device import HOST, on_device, present, widen
from analysis.late import no_grad, torch
from analysis.read_shape import read_shape
from analysis.stream import BlockStream
from analysis.sublayers import Sublayer, out_in, set_out_in, sublayers, weights_at
from slicing.dense_states import DenseStates, pass_dense
from slicing.depth.layout import Layout
from slicing.late import modeling_narrow
from slicing.memory import projections_bytes
from slicing.repair import RidgeFit, SublayerRepair

if TYPE_CHECKING:
    from torch import Tensor

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""With few windows even strong ridges gain: 3 was chosen most often with 16 of 512 tokens."""
SAME, ROUGHLY = 1e-4, 1e-2
"""Two batches that differ by less than this, relative to their norm, differ by rounding alone, in fp32 and in
bf16."""
Tell = Callable[[int, int], None]


@no_grad
def fit_inside(
    dense: Any,
    cut: Any,
    layout: Layout,
    windows: Tensor,
    held: int,
    fits: Collection[str] = ("local",),
    changed: Callable[[int, int], bool] = lambda place, row: True,
    tell: Tell = lambda done, total: None,
    budget: tuple[int, int] | None = None,
    kept: DenseStates | None = None,
) -> tuple[SublayerRepair, ...]:
    """Fit the blocks of ``cut``, made of ``dense`` by ``layout`` and cut inside; its modules are its own.

    ``windows`` (N, T), of which the last ``held`` choose ridges. ``fits`` are names as above. ``changed``
    tells which sub-layers were cut, by block and row: those alone have a ``local`` fit. In front of the first
    of them, and of the first removed block, the two streams are one and nothing is fitted. Where the dense
    stream is ``kept`` from fits or slicings before on these windows, it does not pass again.
    """
    if budget is None and dense.device.type != HOST:
        batch = tokens_at_a_time(windows, dense.device)
        needed = projections_bytes(read_shape(dense), batch, dense.dtype.itemsize, "readers" in fits)
        card, host = budgets(dense.device, needed)
        budget = card // 2, host  # for two streams
    true = BlockStream(dense, windows, budget)
    told: list[SublayerRepair] = []
    closing = not {"readers", "writers"}.isdisjoint(fits)  # only then the cut model's own stream is needed
    short = true.beside(cut) if closing else _empty_like(true)
    dense_rows, passed, alike = sublayers(dense), 0, True

    def skip(block: int) -> None:
        if kept is None:
            true.through(blocks(dense)[block], block)
            return
        with present(blocks(dense)[block]):
            for row, sublayer in enumerate(dense_rows[block]):
                pass_dense(true, (block, row), lambda each=sublayer: advance(each, block), kept)

    def advance(sublayer: Sublayer, block: int) -> None:
        true.change(lambda index, states: states + true.added(sublayer, block, index, states))

    for place, (rows, first) in enumerate(zip(sublayers(cut), layout.following, strict=True)):
        top = layout.tops[place]
        for block in range(passed, top):
            skip(block)
            alike = False
        with present(blocks(cut)[place]) as here, present(blocks(dense)[top]) as there:
            short.move(here)
            true.move(there)  # the two models may be spread differently
            for row, sublayer in enumerate(rows):
                work = _Fit(sublayer, dense_rows[top][row], true, short, place, top, held)
                inside, gone = changed(place, row), not sublayer.writers and not sublayer.mixed
                alike = alike and not inside
                if not (alike or gone) and "readers" in fits:
                    work.readers()
                if inside and not gone and "local" in fits:
                    told += work.local()
                pass_dense(true, (top, row), work.advance_dense, kept, work.spent)
                if row == len(rows) - 1:  # what is removed behind this block is made up for by its writers
                    for block in range(top + 1, first):
                        skip(block)
                        alike = False
                if not (alike or gone) and "writers" in fits:
                    told += work.writers()
                if closing:
                    work.advance_cut(alike)
        passed = first
        tell(first, layout.blocks)
    return tuple(told)


def _empty_like(stream: BlockStream) -> BlockStream:
    """Make a stream that says where the cut model is, and has no batches."""
    other = copy.copy(stream)
    other.states = Activations(stream.device, 0, 0)
    return other


class _Fit:
    """The fits of one sub-layer of the cut model, beside the dense one's."""

    def __init__(
        self,
        cut: Sublayer,
        dense: Sublayer,
        true: BlockStream,
        short: BlockStream,
        place: int,
        top: int,
        held: int,
    ) -> None:
        self.cut, self.dense, self.true, self.short = cut, dense, true, short
        self.place, self.top, self.held = place, top, held
        self.ahead: BlockStream | None = None
        """The dense stream behind the sub-layer, where a fit has found it already."""
        self.spent: float | None = None
        """The seconds that this took."""
        self.maps = cut.writers
        self.biased = [each for each in self.maps if each.bias is not None]
        self.inputs: list[dict[int, Tensor]] = []
        """Holds what the writers have read of every batch, by their places, where there was room for it."""

    def readers(self) -> None:
        """Multiply into the readers what takes their input to that of the dense ones, norm by norm."""
        norms = {
            id(norm): (norm, other) for norm, other in zip(self.cut.norms, self.dense.norms, strict=True)
        }
        for norm, other in norms.values():
            fit = RidgeFit(self.short.at(0).shape[-1], RIDGES)
            for index in range(len(self.short)):
                found = norm(self.short.at(index))
                wanted = other(self.true.at(index)).to(found.device)
                fit.add(_precise(found), _precise(wanted), self.short.held(index, self.held))
            matrix, told = fit.solve(torch.eye(fit.width, dtype=torch.float64))
            if told.ridge is None:
                continue
            for core, branch, its in zip(self.cut.cores, self.cut.branches, self.cut.norms, strict=True):
                if its is norm:
                    for holder, name in weights_at(core, branch.readers):
                        set_out_in(holder, _product(_out_in(holder, name), matrix.T), name)

    def local(self) -> list[SublayerRepair]:
        """Fit the writers on the dense stream, towards what the dense sub-layer writes."""
        ahead, chosen, passing = self.true.beside(), None, 0.0

        def look(index: int) -> tuple[list[Tensor], Tensor, Tensor]:
            nonlocal chosen, passing
            start, states = time.perf_counter(), self.true.at(index)
            inputs: dict[int, Tensor] = {}
            with self.dense.reading(inputs.__setitem__):
                added = self.true.added(self.dense, self.top, index, states)
            passing += time.perf_counter() - start
            ahead.states[index] = states + added
            if chosen is not None:  # the dense sub-layer has shown what the cut one would read
                shown = [inputs[place].index_select(-1, some) for place, some in enumerate(chosen)]
                return self._with_bias(shown), added, states + added
            parts = self._parts(self.true, self.top, index)
            if index == 0 and not self.cut.mixed:
                chosen = self._chosen(inputs, parts)
            return parts, added, states + added

        told = self._fitted(self.true, look)
        self.ahead, self.spent = ahead, passing
        return told

    def _chosen(self, inputs: dict[int, Tensor], parts: list[Tensor]) -> list[Tensor] | None:
        """Find which of a dense writer's inputs each cut one reads, by its weights, which are not fitted yet.

        ``None`` where it reads anything else, as the ``parts`` that both have read of one batch tell.
        """
        found: list[Tensor] = []
        for place, (cut, dense) in enumerate(zip(self.maps, self.dense.writers, strict=True)):
            places = {column.tobytes(): each for each, column in enumerate(_columns(dense))}
            some = [places.get(column.tobytes(), -1) for column in _columns(cut)]
            if min(some) < 0:
                return None
            found.append(torch.tensor(some, device=inputs[place].device))
            shown = inputs[place].index_select(-1, found[-1]).to(parts[place])
            most = ROUGHLY if shown.dtype is torch.bfloat16 else SAME
            if float((shown - parts[place]).norm()) > most * float(shown.norm()):
                return None
        return found

    def writers(self) -> list[SublayerRepair]:
        """Fit the writers on the cut model's stream, towards the dense stream where it is now."""

        def look(index: int) -> tuple[list[Tensor], Tensor, Tensor]:
            states, goal = self.short.at(index), self.true.at(index)
            return self._parts(self.short, self.place, index, True), goal.to(states.device) - states, goal

        return self._fitted(self.short, look)

    def _parts(self, stream: BlockStream, place: int, index: int, keep: bool = False) -> list[Tensor]:
        """The features of a batch: what the writers read; with experts, what they add.

        ``keep``: what they read is kept for ``advance_cut``, where there is room beside the stream.
        """
        read: dict[int, Tensor] = {}
        with self.cut.reading(read.__setitem__), self.short.multiplying():
            added = self.cut.added(
                stream.at(index).to(self.short.device),
                on_device(stream.context(index, place), self.short.device),
            )
        if self.cut.mixed:
            return [added]
        if keep and index == len(self.inputs):
            size = sum(each.nbytes for each in read.values()) * len(stream)
            if self.short.states.has_room(self.short.device, size):
                self.inputs.append(read)
        return self._with_bias(
            [
                each.read(read[place]) if isinstance(each, modeling_narrow.NarrowLinear) else read[place]
                for place, each in enumerate(self.maps)
            ]
        )

    def _with_bias(self, parts: list[Tensor]) -> list[Tensor]:
        """Add 1 for every token where a writer has a bias."""
        return [*parts, torch.ones_like(parts[0][..., :1])] if self.biased else parts

    def _fitted(
        self, stream: BlockStream, look: Callable[[int], tuple[list[Tensor], Tensor, Tensor]]
    ) -> list[SublayerRepair]:
        """Fit the writers; ``look`` gives features, goal and what tokens are weighted by, for every batch."""
        fit = RidgeFit(stream.at(0).shape[-1], RIDGES)

        def add(index: int) -> None:
            parts, goal, like = look(index)
            device, scale = self.short.device, 1.0 if self.cut.mixed else self.cut.scale
            features = torch.cat([_precise(part.to(device)) for part in parts], dim=-1)
            target = _precise(goal.to(device)) / scale
            fit.add(features, target, stream.held(index, self.held), _precise(like.to(device)))

        for index in range(len(stream)):  # of none of them anything is left while the fit is solved
            add(index)
        found, told = fit.solve(torch.eye(fit.width) if self.cut.mixed else self._there())
        if told.ridge is not None:
            self._adopt(found)
        return [told]

    def _there(self) -> Tensor:
        """What takes the features to what is written now, (F, D)."""
        parts = [_precise(out_in(each).T) for each in self.maps]
        if self.biased:
            total: Any = sum(each.bias for each in self.biased)
            parts.append(_precise(total.unsqueeze(0)))
        return torch.cat(parts)

    def _adopt(self, found: Tensor) -> None:
        """Write a fit into the writers; with experts it is one matrix (D, D) on all that they write."""
        if self.cut.mixed:
            for core, branch in zip(self.cut.cores, self.cut.branches, strict=True):
                for holder, name in weights_at(core, branch.writers):
                    set_out_in(holder, _product(found.T, _out_in(holder, name)), name)
                    if getattr(holder, "bias", None) is not None:
                        set_out_in(holder, _product(found.T, holder.bias[:, None])[:, 0], "bias")
            return
        if self.biased:  # several biases are one: the first takes up the change
            others: Any = sum(each.bias for each in self.biased[1:])
            set_out_in(self.biased[0], found[-1].to(self.biased[0].bias) - others, "bias")
            found = found[:-1]
        sizes = [out_in(each).shape[1] for each in self.maps]
        for each, weight in zip(self.maps, found.split(sizes), strict=True):
            set_out_in(each, weight.T)

    def advance_dense(self) -> None:
        """Pass the dense stream through the dense sub-layer."""
        if self.ahead is not None:
            self.true.states = self.ahead.states
            return
        self.true.change(lambda i, states: states + self.true.added(self.dense, self.top, i, states))

    def advance_cut(self, alike: bool) -> None:
        """Pass the cut model's stream through what is left of the sub-layer.

        ``alike``: nothing has changed so far, and the stream is the dense one. Where what the writers read
        is kept, they alone run again: nothing in front of them is new since.
        """

        def passed(index: int, states: Tensor) -> Tensor:
            if alike:
                return self.true.at(index).to(states.device, copy=True)
            if len(self.inputs) < len(self.short):
                return states + self.short.added(self.cut, self.place, index, states)
            read, self.inputs[index] = self.inputs[index], {}
            with self.short.multiplying():
                total: Any = sum(each(read[place]) for place, each in enumerate(self.maps))
            return states + (total if self.cut.scale == 1.0 else self.cut.scale * total)

        self.short.change(passed)


def _columns(writer: Any) -> np.ndarray:
    """Give the columns of a writer: one row for each of its inputs, (F, D)."""
    return np.ascontiguousarray(out_in(writer).T.float().cpu().numpy())


def _precise(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


def _out_in(holder: Any, name: str) -> Tensor:
    return out_in(holder) if name == "weight" else getattr(holder, name)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """A product in fp64, on the host where the device has none."""
    first = widen(first)
    return first @ widen(second, first.device)

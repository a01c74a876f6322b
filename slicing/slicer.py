"""SliceGPT with a width of its own for every block: the algorithm, on one screen.

The dense model is read and never changed; what comes out is a new model that shares with it only what
slicing leaves alone. Knows nothing about how the widths were chosen, or about folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.activations import budgets
from analysis.anatomy import anatomy_of, blocks, final_norm
from analysis.bases import Bases, BasesCollector, Covariance, Seen, TokenSample
from analysis.batches import tokens_at_a_time
from analysis.device import HOST, alike, batch_tokens, out_of_memory_told, present, widen
from analysis.errors import PlanError
from analysis.evaluate import check_windows, perplexity
from analysis.late import no_grad, torch
from analysis.needs import MemoryNeed, refuse_unless_it_fits
from analysis.products import product
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from analysis.stream import Adding, BlockStream
from analysis.sublayers import sublayers
from analysis.values import Progress, no_progress
from slicing.assembly import (
    Site,
    blank,
    fill_ends,
    fill_in_bases,
    fill_readers,
    fill_shortcut,
    fill_writers,
    present_ends,
    put_away,
    sites,
    spread_like,
)
from slicing.basis import Basis, find_basis
from slicing.basis.base import beyond
from slicing.dense_states import DenseStates, pass_dense
from slicing.guard import refuse_unless_invariant
from slicing.memory import preview_need, slicing_need
from slicing.plain import as_plain, fill_plain_ends, stream_scale
from slicing.repair import Repair, SublayerRepair, WriterFit, held_out
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PCA = find_basis("pca")
"""The basis as published."""


@dataclass(frozen=True)
class SlicedModel:
    """A sliced causal language model: it runs, generates and evaluates like a dense one of transformers."""

    model: PreTrainedModel
    """A ``SlicedForCausalLM``, or one of the dense model's class where the schedule is plain."""
    schedule: SlicingSchedule
    shape: ModelShape
    """Shapes of the dense model it was made from."""
    discarded: tuple[float, ...]
    """Share of the stream's energy cut away after the embedding and after each sub-layer, (sites + 1,)."""
    method: Literal["faithful", "preview"]
    """``faithful`` (``slice_model``) or ``preview`` (``recut``)."""
    repair: Repair | None = None
    """What repairing the writers did, where it was asked for."""
    basis: str = PCA.name
    """The rule that chose the directions."""

    @property
    def plain(self) -> bool:
        """Whether any tool opens it as one of its architecture."""
        return self.schedule.plain


@dataclass(frozen=True)
class Followed:
    """The dense model whose stream repair aims at, where the one to be sliced has other blocks."""

    model: PreTrainedModel
    ends: tuple[int, ...]
    """For every sub-layer of the model to be sliced, how many sub-layers of this one it ends after."""


@no_grad
def slice_model(
    model: PreTrainedModel,
    schedule: SlicingSchedule,
    windows: Tensor,
    progress: Progress = no_progress,
    phase: str = "Slicing",
    budget: tuple[int, int] | None = None,
    repair: bool = False,
    followed: Followed | None = None,
    basis: Basis = PCA,
    draw: int = 0,
    kept: DenseStates | None = None,
) -> SlicedModel:
    """Slice ``model`` to the widths of ``schedule``, calibrated on ``windows`` (N, T) of token ids.

    Faithful: each basis is found on the stream of the part that is sliced already, so it sees the error of
    all cuts before it (SliceGPT, 2401.15024, section 3; a width per block: 2411.03513). Where blocks share a
    basis, it is found by passing that stream, or with repair the dense one, through them ahead, uncut.
    Activations take up to ``budget`` bytes of (device, host), by default a third of what is free; more goes
    to disk.
    ``repair`` fits every writer anew (``slicing.repair``), keeps that only where the loss on windows held
    out of the fits is less, and takes the model sliced without repair otherwise; it aims at ``followed``
    where ``model`` was made of that, and takes the dense stream from where it is ``kept`` for others.
    ``basis`` chooses the directions, by its ``draw`` where it is random.
    A plain schedule makes a model of the dense one's class (``slicing.plain``). Raises
    ``UnsupportedError`` for a family whose stream cannot be rotated, ``PlanError`` for the schedule of
    another model, ``TextError`` for windows longer than the context, ``ModelError`` when a state is not
    finite, ``OutOfMemoryError``.
    """
    shape = _checked(model, schedule)
    check_windows(model, windows)
    held = held_out(len(windows)) if repair else 0
    need = refuse_unless_slicing_fits(model, schedule, windows, repair)
    if budget is None:
        # A model that is made has tables of its own; with repair there are two of them, and two streams.
        table: Any = model.get_input_embeddings().weight
        tables = 2 * table.nbytes * (1 + repair)
        card, host = budgets(model.device, need.working + tables)
        budget = card // (1 + repair), host
    steps = len(shape.sublayers)
    once = partial(slice_once, model, schedule, windows, budget, basis=basis, draw=draw)
    with out_of_memory_told("slicing", model.device, f"it takes {need}"):
        refuse_unless_invariant(model)
        if not repair:
            return once(lambda done: progress(phase, done, steps))
        repaired = once(lambda done: progress(phase, done, 2 * steps), held, followed, kept=kept)
        plain = once(lambda done: progress(phase, steps + done, 2 * steps))
        assert repaired.repair is not None
        loss, other = (_loss(each.model, windows[-held:]) for each in (repaired, plain))
        told = repaired.repair.model_copy(update={"repaired": loss, "unrepaired": other})
        return replace(repaired if told.kept else plain, repair=told)


def refuse_unless_slicing_fits(
    model: PreTrainedModel, schedule: SlicingSchedule, windows: Tensor, repair: bool = False
) -> MemoryNeed:
    """Say what ``slice_model`` takes at its peak (``OutOfMemoryError`` where that does not fit)."""
    shape, size, tokens = read_shape(model), model.dtype.itemsize, windows.numel()
    batch = tokens_at_a_time(windows, model.device)
    need = slicing_need(shape, schedule, tokens, batch, size, repair)
    shorter = min(batch, batch_tokens(model.device))
    instead = {
        "use shorter windows": slicing_need(shape, schedule, tokens, shorter, size, repair),
        "slice without repair": slicing_need(shape, schedule, tokens, batch, size),
    }
    refuse_unless_it_fits("Slicing", model, need, instead)
    return need


def slice_once(
    model: PreTrainedModel,
    schedule: SlicingSchedule,
    windows: Tensor,
    budget: tuple[int, int] | None,
    tell: Callable[[int], None],
    held: int = 0,
    followed: Followed | None = None,
    fitted: Callable[[int], bool] = lambda place: True,
    basis: Basis = PCA,
    draw: int = 0,
    kept: DenseStates | None = None,
) -> SlicedModel:
    """Slice once; with repair, which keeps ``held`` windows out of its fits, where that is not 0.

    Sub-layers that are not ``fitted``, by their places, are left as slicing alone makes them.
    """
    shape = read_shape(model)
    sliced = blank(model, schedule)
    stream = _Rotated(model, windows, budget, schedule, basis, draw)
    dense = _Dense(followed or _itself(model), stream, kept) if held else None
    repairs: list[SublayerRepair] = []
    stream.turn(schedule.widths[0], stream.ahead(model, schedule, 0, dense))
    if schedule.plain:
        fill_plain_ends(model, sliced, stream.writing[:, : stream.width], stream.reading)
    else:
        with present_ends(model):
            fill_ends(model, sliced, stream.basis)
    for done, site in enumerate(sites(model, sliced), start=1):
        with present(site.dense) as device:
            stream.move(device)
            fill_readers(model, site, stream.reading)  # (rows, D) -> (rows, W)
            fill_writers(model, site, stream.writing)  # still all of the stream, (D, columns)
            if dense:
                dense.advance(done - 1)
            fits = dense if fitted(done - 1) else None
            fit = stream.advance(site, fits, held)  # (B, T, W) -> (B, T, D)
            if site.turns:  # (B, T, D) -> (B, T, W')
                shared = stream.ahead(model, schedule, site.block + 1, dense)
                fill_shortcut(site, stream.turn(site.leaving, shared), model.dtype)
            else:
                stream.stay(site.leaving)
            written = stream.writing[:, : stream.width]
            fill_writers(model, site, written)  # (W', columns)
            if fit:
                repairs.append(fit.apply(written))
                stream.follow(site, fit)  # once more, by what was fitted: (B, T, W) -> (B, T, W')
            put_away(site)
        tell(done)
    made: PreTrainedModel = sliced
    if schedule.plain:
        made = as_plain(model, sliced)
    else:
        spread_like(model, sliced)
    repair = Repair(sublayers=tuple(repairs), windows=held, unrepaired=0.0, repaired=0.0) if held else None
    return SlicedModel(made, schedule, shape, tuple(stream.discarded), "faithful", repair, basis.name)


def _itself(model: PreTrainedModel) -> Followed:
    return Followed(model, tuple(range(1, len(read_shape(model).sublayers) + 1)))


def _loss(model: PreTrainedModel, windows: Tensor) -> float:
    return float(np.mean(perplexity(model, windows).nll))


@no_grad
def recut(
    model: PreTrainedModel,
    schedule: SlicingSchedule,
    bases: Bases,
    chosen: str = PCA.name,
    progress: Progress = no_progress,
) -> SlicedModel:
    """Slice ``model`` in the bases of its dense stream: a preview, without calibration, in seconds.

    ``chosen`` is the name of the rule that chose them.

    No basis sees the error of the cuts before it, which costs some perplexity against ``slice_model``.
    Raises what that does, and ``PlanError`` for the bases of another model.
    """
    shape = _checked(model, schedule)
    if len(bases.vectors) != len(shape.sublayers) or len(bases.vectors[0]) != shape.hidden_size:
        raise PlanError("The bases are those of another model: profile this one again.")
    refuse_unless_it_fits("Previewing", model, preview_need(shape, schedule, model.dtype.itemsize, held=True))
    with out_of_memory_told("slicing"):
        refuse_unless_invariant(model)
        sliced = blank(model, schedule)
        precise = torch.promote_types(model.dtype, torch.float32)
        plain = torch.eye(shape.hidden_size, dtype=precise, device=model.device)

        rows = len(anatomy_of(model.config).sublayers)
        shared: dict[range, Tensor] = {}
        discarded: list[float] = []

        def basis_at(site: int, width: int) -> Tensor:
            # Where nothing is cut every basis gives the same function; the head's is the plain one.
            block = site // rows
            cut = width < shape.hidden_size
            if schedule.span and block < shape.block_count:
                cut = schedule.cuts(block)
            if not cut:
                discarded.append(0.0)
                return plain
            if schedule.span == 0:
                discarded.append(bases.discarded(site, width))
                return bases.vectors[site][:, :width].to(model.device, precise)
            first, last = schedule.basis_of(block)
            among = range(rows * first, rows * last)
            if among not in shared:
                shared.clear()
                shared[among] = bases.shared(among)
            basis = shared[among][:, :width]
            discarded.append(bases.missed(site, basis))
            return basis.to(model.device, precise)

        steps = len(shape.sublayers)
        for done, _ in enumerate(fill_in_bases(model, sliced, schedule, basis_at), 1):
            progress("Slicing", done, steps)
        spread_like(model, sliced)
    return SlicedModel(sliced, schedule, shape, tuple(discarded), "preview", basis=chosen)


def _checked(model: PreTrainedModel, schedule: SlicingSchedule) -> ModelShape:
    shape = read_shape(model)
    schedule.check_fits(shape)
    return shape


class _Rotated:
    """The residual stream over the calibration windows, carried through the model as it is being sliced.

    It lives in the coordinates of ``rotation`` (D, D), whose leading columns are the sliced basis. So what
    a sub-layer adds, written in all of ``rotation``, is simply added to the leading coordinates; nothing is
    ever led back to the dense basis, and a shortcut is a corner of the turn from one rotation to the next.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Tensor,
        budget: tuple[int, int] | None,
        schedule: SlicingSchedule,
        chosen: Basis = PCA,
        draw: int = 0,
    ) -> None:
        self.dtype = model.dtype
        # The stream is summed up over many sub-layers: 16 bits would add their rounding to every basis.
        self.precise = torch.promote_types(model.dtype, torch.float32)
        self.span = schedule.span
        self.scale = stream_scale(schedule.widths[0], schedule.hidden_size) if schedule.plain else 1.0
        """What the stream is stored times, once it is cut."""
        self.discarded: list[float] = []
        self.width = read_shape(model).hidden_size
        self.chosen, self.draw, self.turned = chosen, draw, 0
        self.covariance = Covariance(self.width, model.device)
        self.sample = TokenSample(chosen.tokens)
        self.rotation = torch.eye(self.width, dtype=self.precise, device=model.device)
        self.waits = False
        """Whether the states are still those before the sub-layer, which is being repaired."""
        centred = anatomy_of(model.config).centred

        def begin(states: Tensor) -> Tensor:
            states = states.to(self.precise)
            if centred:  # as a layer norm would, and as the sliced writers do
                states = states - states.mean(-1, keepdim=True)
            self.covariance.add(states)
            self.sample.add(states)
            return states

        self.stream = BlockStream(model, windows, budget, begin)

    @property
    def basis(self) -> Tensor:
        """The sliced basis of the stream, (D, W)."""
        return self.rotation[:, : self.width]

    @property
    def reading(self) -> Tensor:
        """The basis in which the stream is read, (D, W)."""
        return self.basis / self.scale

    @property
    def writing(self) -> Tensor:
        """The rotation in which the stream is written, (D, D)."""
        return self.rotation * self.scale

    def move(self, device: torch.device) -> None:
        """Go on on ``device``, where the next block is."""
        self.stream.move(device)
        self.rotation = self.rotation.to(device)

    def advance(self, site: Site, dense: _Dense | None = None, held: int = 0) -> WriterFit | None:
        """Pass the stream (B, T, W) through a sub-layer that reads ``basis`` and writes ``rotation``.

        With the dense stream beside it, nothing is passed on yet: what comes back is the fit of the writers
        to it, and ``follow`` passes the stream on once they are fitted.
        """
        self.covariance = Covariance(len(self.rotation), self.stream.device)
        self.sample = TokenSample(self.chosen.tokens)
        self.energies = torch.zeros(len(self.rotation), dtype=torch.float64)
        fit = WriterFit(site.sliced, site.branches, len(self.rotation)) if dense else None

        def passed(index: int, states: Tensor) -> Tensor:
            with fit.watching() if fit else nullcontext():
                added = self.added(self.stream, index, site.block, site.sliced, states)
            added[..., : self.width] += states
            if site.leaving < len(self.rotation):
                self._look_at(added, site)
            if fit and dense:
                fit.add(states, dense.at(index), self.stream.held(index, held), self._room)
            return states if fit else added

        self.stream.change(passed)
        self.waits = fit is not None
        return fit

    def _look_at(self, states: Tensor, site: Site) -> None:
        """Sum up what the next basis, or what is cut away in this one, is found from."""
        if self.span == 0:
            self.covariance.add(states)
            self.sample.add(states)
        elif not site.turns:
            self.energies += widen(states.square().sum((0, 1)), HOST)

    def _room(self, size: int) -> bool:
        """Tell whether so many bytes of every batch have room in memory, beside the stream."""
        return self.stream.states.has_room(self.stream.device, size * len(self.stream))

    def follow(self, site: Site, fit: WriterFit) -> None:
        """Pass the stream through a finished sub-layer, (B, T, W) -> (B, T, W').

        Where what its writers read was kept, they alone run again.
        """

        def passed(index: int, states: Tensor) -> Tensor:
            with self.stream.multiplying():
                written = fit.written(index)
            if written is None:
                written = self.added(self.stream, index, site.block, site.sliced, states)
            return site.sliced.carried(states) + written.to(self.precise)

        self.stream.change(passed)
        self.waits = False

    def ahead(
        self, model: PreTrainedModel, schedule: SlicingSchedule, block: int, dense: _Dense | None
    ) -> tuple[Tensor, Tensor] | None:
        """The basis that ``block`` and those after it are to share: vectors (D, D) and energies (D,).

        The stream as it is, or the dense one, passes through the dense blocks that share it, and is left as
        it was. ``None`` where nothing is shared, or nothing cut.
        """
        if block == len(schedule.widths) - 1 or schedule.span == 0 or not schedule.cuts(block):
            return None
        some = range(*schedule.basis_of(block))
        tokens = self.chosen.tokens
        collector = BasesCollector(model, slice(some.start, some.stop), schedule.plain, tokens)
        if dense and dense.kept and dense.model is model:
            for site, stream in zip(collector.sites, dense.ahead(some), strict=False):
                for index in range(len(stream)):
                    collector.add(site, stream.at(index).to(self.dtype))
        else:
            with collector.watching():
                for index in range(len(self.stream)):
                    states = (dense or self).in_dense_basis(index)
                    for place in some:
                        states = self.stream.called(blocks(model)[place], place, index, states)
                    if schedule.plain:
                        final_norm(model)(states)
        seen = collector.seen(range(len(collector.sums)), self.turned)
        return self.chosen.directions(seen, schedule.widest(block), self.draw)

    def in_dense_basis(self, index: int) -> Tensor:
        """A batch of the stream in the coordinates of the dense model, (B, T, D)."""
        states = self.stream.at(index)
        return (states @ self.rotation[:, : states.shape[-1]].T).to(self.dtype)

    def added(self, stream: BlockStream, index: int, block: int, sublayer: Adding, states: Tensor) -> Tensor:
        """Compute what a sub-layer of a ``block`` of ``stream`` adds to a batch of ``states``."""
        return stream.added(sublayer, block, index, states.to(self.dtype)).to(self.precise)

    def turn(self, width: int, shared: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Turn the rotation to the basis chosen for the stream, or one ``shared`` with what comes, and cut
        the stream to ``width``.

        (B, T, D) -> (B, T, width). Returns the shortcut from the old basis to the new, (W, width).
        """
        lost = 0.0
        if shared:
            rotation, energies = shared
            turn = alike(self.rotation.T, rotation) @ rotation
            lost = beyond(energies, width)
        elif width == len(self.rotation):  # nothing is cut, so every basis gives the same function:
            rotation, turn = torch.eye(width), self.rotation.T  # the plain one
        else:
            tokens = self.sample.tokens() if self.chosen.tokens else None
            seen = Seen(self.covariance, tokens, self.turned)
            turn, rotation, lost = self.chosen.turned(seen, width, self.rotation, self.draw)
        self.discarded.append(lost)
        device = self.stream.device
        shortcut = turn[: self.width, :width].to(device, self.precise)
        # Never multiplied up from its own transpose: that doubles its rounding at every turn.
        self.rotation = rotation.to(device, self.precise)
        if not self.waits:
            leading = turn[:, :width].to(device, self.precise) * self.scale
            self.stream.change(lambda _, states: product(states, leading))
        self.width = width
        self.turned += 1
        return shortcut

    def stay(self, width: int) -> None:
        """Stay in the basis and cut the stream to ``width``, (B, T, D) -> (B, T, width)."""
        energy = float(self.energies.sum())
        self.discarded.append(float(self.energies[width:].sum()) / energy if energy else 0.0)
        if not self.waits:
            self.stream.change(lambda _, states: states[..., :width])
        self.width = width


class _Dense:
    """The stream of the dense model over the same windows, sub-layer by sub-layer: what repair aims at."""

    def __init__(self, followed: Followed, beside: _Rotated, kept: DenseStates | None) -> None:
        self.model, self.ends, self.beside = followed.model, followed.ends, beside
        anatomy = anatomy_of(self.model.config)
        self.centred, self.rows = anatomy.centred, len(anatomy.sublayers)
        self.sublayers = [each for rows in sublayers(self.model) for each in rows]
        self.passed = 0
        self.stream = beside.stream.again(self.model, lambda states: states.to(beside.precise))
        # Fits carry the dense stream in the model's dtype.
        self.kept = kept if beside.dtype is beside.precise else None

    def advance(self, place: int) -> None:
        """Go on to where a sub-layer of the model that is sliced ends, by its place."""
        while self.passed < self.ends[place]:
            self._pass(self.stream, self.passed)
            self.passed += 1
        self.stream.move(self.beside.stream.device)

    def ahead(self, some: range) -> Iterator[BlockStream]:
        """Yield the stream in front of every sub-layer of these blocks, which come next, and behind the last.

        The stream itself stays where it is, and a second one goes on. Where the dense stream is kept, there
        is room for that.
        """
        stream = self.stream.beside()
        for place in range(self.rows * some.start, self.rows * some.stop):
            yield stream
            self._pass(stream, place)
        yield stream

    def _pass(self, stream: BlockStream, place: int) -> None:
        """Pass ``stream`` through a sub-layer of the dense model, or take it from where it is kept."""
        (block, row), sublayer, beside = divmod(place, self.rows), self.sublayers[place], self.beside
        with present(blocks(self.model)[block]) as device:
            stream.move(device)
            pass_dense(
                stream,
                (block, row),
                lambda: stream.change(
                    lambda index, states: states + beside.added(stream, index, block, sublayer, states)
                ),
                self.kept,
            )

    def at(self, index: int) -> Tensor:
        """A batch of the stream where it is now, (B, T, D), as what is sliced has it: centred where a layer
        norm would do so.
        """
        states = self.stream.at(index)
        return states - states.mean(-1, keepdim=True) if self.centred else states

    def in_dense_basis(self, index: int) -> Tensor:
        """A batch of the stream where it is now, (B, T, D), in the model's dtype."""
        return self.at(index).to(self.beside.dtype)

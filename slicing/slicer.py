"""SliceGPT with a width of its own for every block: the algorithm, on one screen.

The dense model is read and never changed; what comes out is a new model that shares with it only what
slicing leaves alone. Knows nothing about how the widths were chosen, or about folders.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from analysis.anatomy import anatomy_of, decoder, read_shape
from analysis.device import out_of_memory_told
from analysis.errors import ModelError, UnsupportedError
from analysis.evaluate import batches_of, check_windows
from analysis.hooks import entering_states
from analysis.shape import ModelShape
from analysis.values import Progress, no_progress
from slicing.assembly import assemble, dense_sublayers, reading_sublayer, sliced_embedding, write_into
from slicing.block import SlicedSublayer
from slicing.rotation import Covariance, random_basis
from slicing.schedule import SlicingSchedule

GUARD_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Largest relative error of the logits that rounding alone may explain, by dtype."""


@dataclass(frozen=True)
class SlicedModel:
    """A sliced causal language model: it runs, generates and evaluates like a dense one of transformers."""

    model: PreTrainedModel
    schedule: SlicingSchedule
    shape: ModelShape
    """Shapes of the dense model it was made from."""
    discarded: tuple[float, ...]
    """Share of the stream's energy cut away after the embedding and after each sub-layer, (2L + 1,)."""


@torch.no_grad()
def slice_model(
    model: PreTrainedModel,
    schedule: SlicingSchedule,
    windows: Tensor,
    progress: Progress = no_progress,
    phase: str = "Slicing",
) -> SlicedModel:
    """Slice ``model`` to the widths of ``schedule``, calibrated on ``windows`` (N, T) of token ids.

    Each basis is found on the stream of the part that is sliced already, so it sees the error of all cuts
    before it (SliceGPT, 2401.15024, section 3; a width per block: 2411.03513). Raises
    ``UnsupportedError`` for a family whose stream cannot be rotated, ``PlanError`` for the schedule of
    another model, ``TextError`` for windows longer than the context, ``ModelError`` when a state is not
    finite, ``OutOfMemoryError``.
    """
    shape = read_shape(model)
    schedule.check_fits(shape)
    check_windows(model, windows)
    with out_of_memory_told("slicing"):
        refuse_unless_invariant(model)
        stream = _Stream(model, windows)
        discarded: list[float] = []

        def principal_basis(width: int) -> Tensor:
            basis, lost = stream.principal_basis(width)
            discarded.append(lost)
            return basis

        parts = _rotate_and_slice(model, stream, schedule, shape, principal_basis)
        embedding, sublayers = next(parts), []
        for done, sublayer in enumerate(parts, start=1):
            sublayers.append(sublayer)
            progress(phase, done, len(shape.sublayers))
        sliced = assemble(model, embedding, sublayers, schedule.embedding)
    return SlicedModel(sliced, schedule, shape, tuple(discarded))


def _rotate_and_slice(
    model: PreTrainedModel,
    stream: _Stream,
    schedule: SlicingSchedule,
    shape: ModelShape,
    find_basis: Callable[[int], Tensor],
) -> Iterator[Any]:
    """The main loop: yields the sliced embedding, then every sliced sub-layer."""
    basis = find_basis(schedule.widths[0])  # (D, W): of the embedded tokens
    yield sliced_embedding(model, basis, schedule.embedding)
    stream.project(basis)  # (B, T, D) -> (B, T, W)
    sites = zip(dense_sublayers(model), schedule.sites(shape), strict=True)
    for (block, dense, names), (_, leaving) in sites:
        sublayer = reading_sublayer(model, dense, names, basis)
        stream.advance(block, sublayer)  # (B, T, W) -> (B, T, D)
        basis = find_basis(leaving)  # (D, W'): of what the sub-layer leaves behind
        write_into(sublayer, names, basis)
        stream.project(basis)  # (B, T, D) -> (B, T, W')
        yield sublayer


class _Stream:
    """The residual stream over the calibration windows, carried through the model as it is being sliced."""

    def __init__(self, model: PreTrainedModel, windows: Tensor) -> None:
        self.device = model.device
        self.dtype = model.dtype
        # The stream is summed up over many sub-layers: 16 bits would add their rounding to every basis.
        self.precise = torch.promote_types(model.dtype, torch.float32)
        self.states: list[Tensor] = []
        self.contexts: list[list[dict[str, Any]]] = []
        contexts: dict[torch.Size, list[dict[str, Any]]] = {}
        for batch in batches_of(windows, self.device):
            entering, context = entering_states(model, batch.to(self.device))
            self.states.append(entering.to(self.precise))
            # Positions and masks depend on the batch's shape alone: windows have no padding.
            self.contexts.append(contexts.setdefault(batch.shape, context))

    def principal_basis(self, width: int) -> tuple[Tensor, float]:
        """The leading ``width`` eigenvectors (D, W) of the stream's second moment, and the energy cut."""
        full = self.states[0].shape[-1]
        if width == full:  # nothing is cut, so every basis gives the same function: take the plain one
            return torch.eye(full, dtype=self.precise, device=self.device), 0.0
        covariance = Covariance(full, self.device)
        for states in self.states:
            covariance.add(states)
        if not covariance.sum.isfinite().all():
            raise ModelError("The stream is not finite: open the model in bfloat16 or float32.")
        vectors, energies = covariance.principal_basis()
        lost = float(energies[width:].sum() / energies.sum())
        return vectors[:, :width].to(self.device, self.precise), lost

    def advance(self, block: int, sublayer: SlicedSublayer) -> None:
        """Pass the stream through a sub-layer that reads the sliced basis and writes the full one."""
        for index, states in enumerate(self.states):
            added = sublayer.branch(states.to(self.dtype), **self.contexts[index][block])
            self.states[index] = torch.addmm(
                added.reshape(-1, added.shape[-1]).to(self.precise),
                states.reshape(-1, states.shape[-1]),
                sublayer.shortcut.to(self.precise),
            ).view(added.shape)

    def project(self, basis: Tensor) -> None:
        """Express the stream in ``basis`` (D, W)."""
        self.states = [states @ basis for states in self.states]


_INVARIANT: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
"""Models that passed the guard already."""


@torch.no_grad()
def refuse_unless_invariant(model: PreTrainedModel) -> None:
    """Raise ``UnsupportedError`` unless rotating the whole stream at full width leaves the logits alone.

    Walks the model once with random rotations on a few tokens, one sub-layer in memory at a time. This
    catches what no table can: a family member with another order of norms, or a layer type of its own.
    """
    if model in _INVARIANT:
        return
    anatomy, shape = anatomy_of(model.config), read_shape(model)
    probe = torch.arange(32, device=model.device).remainder(shape.vocab_size).unsqueeze(0)
    expected = model(probe, use_cache=False).logits.to(torch.promote_types(model.dtype, torch.float32))

    stream = _Stream(model, probe)
    rotations = _random_rotations(len(shape.sublayers), shape.hidden_size, stream)
    full = (shape.hidden_size,) * (shape.block_count + 1)
    schedule = SlicingSchedule(
        hidden_size=shape.hidden_size, widths=full, embedding="shared" if shape.tied else "untied"
    )
    parts = _rotate_and_slice(model, stream, schedule, shape, lambda _: next(rotations))
    states = next(parts)(probe)
    # The finished parts are run, not the loop's own stream, which has every writer write the full basis.
    for context, sublayer in zip(_per_sublayer(stream.contexts[0], shape), parts, strict=True):
        states = sublayer(states, **context)
    normed = getattr(decoder(model), anatomy.final_norm)(states)
    logits = getattr(model, anatomy.head)(normed).to(expected.dtype)

    error = float((logits - expected).norm() / expected.norm())
    if not error <= GUARD_TOLERANCE[model.dtype]:
        raise UnsupportedError(
            f"Rotating the stream of this {model.config.model_type} model changes its logits by "
            f"{error:.1%}, so slicing would break it: it has a part that slicescope does not know; "
            "its redundancy can still be profiled."
        )
    _INVARIANT.add(model)


def _per_sublayer(contexts: list[dict[str, Any]], shape: ModelShape) -> list[dict[str, Any]]:
    return [context for context, block in zip(contexts, shape.blocks, strict=True) for _ in block]


def _random_rotations(count: int, width: int, stream: _Stream) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield random_basis(width, generator).to(stream.device, stream.precise)
    yield torch.eye(width, dtype=stream.precise, device=stream.device)

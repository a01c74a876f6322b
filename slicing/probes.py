"""Every score that is probed, by its name: what it takes, and how it is found.

Knows nothing about who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import anatomy_of
from analysis.bases import Bases
from analysis.device import on_device, present
from analysis.hooks import entering_states
from analysis.late import torch
from analysis.precision import Precision
from analysis.probes import Replacement, damage, depth, heavy_tail, leave_out
from analysis.read_shape import read_shape
from analysis.values import Progress, no_progress
from slicing.assembly import blank, fill_readers, fill_shortcut, fill_writers, sites
from slicing.guard import refuse_unless_invariant
from slicing.inner.select import block_worth
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from torch import Tensor

FRACTIONS = (0.125, 0.25, 0.5)
"""Where the damage of slicing one block is measured for curves."""
USUAL = 0.25
"""Where it is measured for a score."""


@dataclass
class Probing:
    """What probes of one model on the same windows share."""

    model: Any
    windows: Tensor
    """(N, T) of token ids, for the losses."""
    find_bases: Callable[[], Bases]
    """The bases of the dense stream, asked for where a probe needs them."""
    progress: Progress = no_progress
    precision: Precision = "exact"
    shares: bool = False
    """Nothing is kept, so that nobody else asks for the same."""

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """Give an answer; nothing is kept from probe to probe."""
        return measure()

    def damage(self, **replacements: Replacement) -> dict[str, np.ndarray]:
        """See ``analysis.probes.damage``."""
        return damage(self.model, self.windows, replacements, self.progress, "Probing", self.precision)


def leave_one_out(probing: Probing) -> np.ndarray:
    """Rise of the loss without each block, (N, L) nats per token."""
    return probing.damage(out=leave_out)["out"]


def slice_one(probing: Probing) -> np.ndarray:
    """Rise of the loss with a quarter of each block's width cut, (N, L) nats per token."""
    return probing.damage(cut=_sliced(probing, USUAL))["cut"]


def slice_one_curves(probing: Probing) -> np.ndarray:
    """Rise of the loss with each of ``FRACTIONS`` of each block's width cut, (K, L) nats per token."""
    cuts = {f"cut {fraction}": _sliced(probing, fraction) for fraction in FRACTIONS}
    return np.stack([rows.mean(axis=0) for rows in probing.damage(**cuts).values()])


def discarded_energy(probing: Probing, fraction: float = USUAL) -> np.ndarray:
    """Mean share of the energy that a cut discards over each block's sites, (1, L)."""
    shape, bases = read_shape(probing.model), probing.find_bases()
    width = round(shape.hidden_size * (1 - fraction))
    shares = [bases.discarded(site, width) for site in range(len(shape.sublayers))]
    ends = np.cumsum([len(block) for block in shape.blocks])[:-1]
    return np.asarray([[float(part.mean()) for part in np.split(np.asarray(shares), ends)]])


def discarded_energy_curves(probing: Probing) -> np.ndarray:
    """The same at each of ``FRACTIONS``, (K, L)."""
    return np.concatenate([discarded_energy(probing, fraction) for fraction in FRACTIONS])


def by_units(name: str) -> Callable[[Probing], np.ndarray]:
    """The probe of what the inside of a block is worth on average by a score of units, (1, L)."""
    return lambda probing: block_worth(probing, name)[None]


PROBES: dict[str, Callable[[Probing], np.ndarray]] = {
    "leave-one-out": leave_one_out,
    "slice-one": slice_one,
    "discarded-energy": discarded_energy,
    "heavy-tail": lambda probing: heavy_tail(probing.model),
    "depth": lambda probing: depth(probing.model),
    **{name: by_units(name) for name in ("activation", "wanda", "leverage", "fisher", "taylor")},
}
"""By the names of their scores: (N or 1, L)."""
CURVES: dict[str, Callable[[Probing], np.ndarray]] = {
    "slice-one": slice_one_curves,
    "discarded-energy": discarded_energy_curves,
}
"""Damage at each of ``FRACTIONS``, (K, L), for water-filling."""
NEED_SLICING = ("slice-one", "discarded-energy")
"""Probes for models that can be sliced."""


def _sliced(probing: Probing, fraction: float) -> Replacement:
    """The replacement of a block by its sliced self, in the bases of the dense stream."""
    model, bases = probing.model, probing.find_bases()
    refuse_unless_invariant(model)
    shape, anatomy = read_shape(model), anatomy_of(model.config)
    hidden = shape.hidden_size
    width = round(hidden * (1 - fraction))
    precise = torch.promote_types(model.dtype, torch.float32)
    firsts = np.cumsum([0, *(len(block) for block in shape.blocks)])
    contexts: dict[torch.Size, list[dict[str, Any]]] = {}

    def replaced(block: int, entering: Tensor, tokens: Tensor) -> Tensor:
        if tokens.shape not in contexts:
            contexts[tokens.shape] = entering_states(model, tokens, anatomy.returns_tuple)[1]
        context = on_device(contexts[tokens.shape][block], entering.device)
        schedule = SlicingSchedule(
            hidden_size=hidden,
            widths=tuple(width if index == block else hidden for index in range(shape.block_count + 1)),
            embedding="shared" if shape.tied else "untied",
        )
        found = [site for site in sites(model, blank(model, schedule)) if site.block == block]
        # Narrow before every sub-layer, and whole again after the last.
        stages = [
            bases.vectors[place][:, :width].to(entering.device, precise)
            for place in range(firsts[block], firsts[block + 1])
        ]
        stages.append(torch.eye(hidden, dtype=precise, device=entering.device))
        states = entering - entering.mean(-1, keepdim=True) if anatomy.centred else entering
        states = (states.to(precise) @ stages[0]).to(entering.dtype)
        for reading, writing, site in zip(stages, stages[1:], found, strict=False):
            with present(site.dense):
                fill_readers(model, site, reading)
                fill_writers(model, site, writing)
                fill_shortcut(site, reading.T @ writing, model.dtype)
                states = site.sliced(states, context)
        return states

    return replaced

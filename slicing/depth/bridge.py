"""A bridge: one D x D matrix in the place of the blocks that were removed, fitted in closed form.

For every family whose blocks run one after the other, with or without a known anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from analysis.anatomy import block_path, blocks
from analysis.device import on_device
from analysis.evaluate import batches_of
from analysis.hooks import entering_states, returns_tuple
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.kept import Kept, budgets
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.repair import RidgeFit, SublayerRepair


def bridge_model(
    model: PreTrainedModel,
    layout: Layout,
    windows: Tensor,
    held: int,
    tell: Callable[[int], None],
    budget: tuple[int, int] | None = None,
) -> tuple[BridgedForCausalLM, tuple[SublayerRepair, ...]]:
    """The reduced model with a matrix behind every block that a gap follows.

    Each is the ridge regression from the stream that the reduced model has there to the dense stream behind
    the gap, over ``windows`` (N, T), all but the last ``held`` of them, tokens weighted by the inverse RMS of
    their target. (Ghosted Layers, 2605.15491, fits the same without weights, by a ridge of 1e-6.) In front
    of a gap at the start there is nothing to bridge from.
    """
    reduced = reduce_blocks(model, layout, check=False)
    gaps = {gap.to: gap.after for gap in layout.gaps if gap.after >= 0}
    config = BridgedConfig(
        text_config=reduced.config,
        blocks=block_path(reduced),
        bridges=sorted(gaps.values()),
        dtype=model.dtype,
    )
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):  # the bridges' numbers come below
        bridged: Any = BridgedForCausalLM(config, inner=reduced)
    walk = _Walk(model, windows, budget)
    told: list[SublayerRepair] = []
    for place in range(layout.blocks + 1):
        if place in gaps:
            target: Any = blocks(bridged)[gaps[place]]
            matrix, fit = walk.fitted(held)
            told.append(fit)
            target.bridge = torch.nn.Parameter(matrix.to(model.device, model.dtype), requires_grad=False)
            walk.turn(target.bridged)
        if place < layout.blocks:
            kept = layout.tops.index(place) if place in layout.tops else None
            block: Any = None if kept is None else blocks(bridged)[kept]
            walk.advance(place, getattr(block, "block", block) if hasattr(block, "bridge") else block)
        tell(place)
    if model.generation_config is not None:
        bridged.generation_config = reduced.generation_config
    return bridged.eval(), tuple(told)


class _Walk:
    """The streams of the dense and of the reduced model over the same windows, block by block."""

    def __init__(self, model: PreTrainedModel, windows: Tensor, budget: tuple[int, int] | None) -> None:
        self.model, self.device = model, model.device
        self.precise = torch.promote_types(model.dtype, torch.float32)
        self.tuples = returns_tuple(model, windows[:1, :8].to(self.device))
        sizes = budgets(self.device) if budget is None else budget
        self.dense, self.short = (Kept(self.device, *sizes) for _ in range(2))
        self.contexts: list[list[dict[str, Any]]] = []
        self.windows = len(windows)
        known: dict[torch.Size, list[dict[str, Any]]] = {}
        for batch in batches_of(windows, self.device):
            states, context = entering_states(model, batch.to(self.device), self.tuples)
            self.dense.append(states)
            self.short.append(states.clone())
            self.contexts.append(known.setdefault(batch.shape, context))

    def advance(self, place: int, kept: Any) -> None:
        """Pass the dense stream through a block, and the other one through what is left of it."""
        for index in range(len(self.dense)):
            for states, block in ((self.dense, blocks(self.model)[place]), (self.short, kept)):
                if block is None:
                    continue
                context = on_device(self.contexts[index][place], self.device)
                output = block(states.take(index, self.device), **context)
                states[index] = output[0] if isinstance(output, tuple) else output

    def fitted(self, held: int) -> tuple[Tensor, SublayerRepair]:
        """The matrix (D, D) from where the reduced model's stream is to where the dense one is, fp64."""
        fit, left = None, self.windows
        for index in range(len(self.dense)):
            found, wanted = (each.take(index, self.device) for each in (self.short, self.dense))
            self.short[index], self.dense[index] = found, wanted
            fit = fit or RidgeFit(found.shape[-1])
            left -= len(found)
            fit.add(found.to(self.precise), wanted.to(self.precise), min(len(found), max(0, held - left)))
        assert fit is not None
        return fit.solve(torch.eye(fit.width))

    def turn(self, bridged: Callable[[Tensor], Tensor]) -> None:
        """Pass the reduced model's stream over a bridge."""
        for index in range(len(self.short)):
            self.short[index] = bridged(self.short.take(index, self.device))

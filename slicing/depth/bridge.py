"""What takes the place of removed blocks, for every family: a matrix in closed form, or a trained block.

Both look at the stream as it leaves the gap in the dense model, and at nothing inside a block.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from analysis.anatomy import block_path, blocks
from analysis.errors import UnsupportedError
from analysis.stream import BlockStream
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.repair import RidgeFit, SublayerRepair, token_weights

EPOCHS, PATIENCE = 40, 5
"""Of training: passes over the windows at most, and those without gain after which it stops."""
RATES = (2e-4, 5e-5)
"""Learning rates at the start and at the end, a cosine between (LLM-Streamline, 2403.19135)."""

Tell = Callable[[int], None]


class Streams(NamedTuple):
    """Two streams over the same windows: the dense model's, and the one that fewer blocks make of them."""

    dense: BlockStream
    short: BlockStream


@torch.no_grad()
def bridge_model(
    model: PreTrainedModel,
    layout: Layout,
    windows: Tensor,
    held: int,
    tell: Tell,
    budget: tuple[int, int] | None = None,
) -> tuple[BridgedForCausalLM, tuple[SublayerRepair, ...]]:
    """The reduced model with a matrix (D, D) behind every block at a seam.

    Each is the ridge regression from the stream that the reduced model has there to the dense stream behind
    the gap, or behind the blocks that became one, over ``windows`` (N, T), all but the last ``held`` of them,
    tokens weighted by the inverse RMS of their target. (Ghosted Layers, 2605.15491, fits the same without
    weights, by a ridge of 1e-6.) In front of a gap at the start there is nothing to bridge from.
    """
    reduced = reduce_blocks(model, layout, check=False)
    after = layout.seams
    config = BridgedConfig(
        text_config=reduced.config, blocks=block_path(reduced), bridges=list(after), dtype=model.dtype
    )
    config._attn_implementation = model.config._attn_implementation
    plain = list(blocks(reduced))
    with torch.device("meta"):  # the bridges' numbers come below
        bridged: Any = BridgedForCausalLM(config, inner=reduced)

    def close(streams: Streams, place: int, block: int) -> SublayerRepair | None:
        dense, short = streams
        short.through(plain[block], place)
        if block not in after:
            return None
        there: Any = blocks(bridged)[block]
        fit = RidgeFit(len(there.bridge))
        for index in range(len(short)):
            found, wanted = short.at(index), dense.at(index)
            if found.shape[-1] != fit.width:
                raise UnsupportedError(
                    f"A matrix bridges a stream as wide as the model, {fit.width:,}, but between the blocks "
                    f"of '{model.config.model_type}' it is {found.shape[-1]:,} wide: leave the gaps open."
                )
            precise = torch.promote_types(found.dtype, torch.float32)
            fit.add(found.to(precise), wanted.to(precise), short.held(index, held))
        matrix, told = fit.solve(torch.eye(fit.width))
        there.bridge = nn.Parameter(matrix.to(short.at(0).device, model.dtype), requires_grad=False)
        short.change(lambda _, states: there.bridged(states))
        return told

    told = _over_gaps(model, layout, windows, tell, budget, close)
    if model.generation_config is not None:
        bridged.generation_config = reduced.generation_config
    return bridged.eval(), told


@torch.no_grad()
def train_blocks(
    model: PreTrainedModel,
    reduced: PreTrainedModel,
    closed: PreTrainedModel,
    layout: Layout,
    windows: Tensor,
    held: int,
    tell: Tell,
    budget: tuple[int, int] | None = None,
) -> tuple[SublayerRepair, ...]:
    """Train the block at each seam of ``reduced`` to make up for those that are gone, for ``closed``.

    So one block stands for itself and the span after it, as in LLM-Streamline (2403.19135), whose light block
    starts with the first removed block's weights. The loss is the squared distance to the dense stream
    there, tokens weighted by the inverse RMS of their target; the windows held out stop it.
    """
    plain, listed = blocks(reduced), blocks(closed)

    def close(streams: Streams, place: int, block: int) -> SublayerRepair | None:
        if block not in layout.seams:
            streams.short.through(plain[block], place)
            return None
        home = next(listed[block].parameters()).device
        listed[block], told = _trained(streams, place, listed[block].to(streams.short.device), held)
        streams.short.through(listed[block], place)
        listed[block].to(home)
        return told

    return _over_gaps(model, layout, windows, tell, budget, close)


def _over_gaps(
    model: PreTrainedModel,
    layout: Layout,
    windows: Tensor,
    tell: Tell,
    budget: tuple[int, int] | None,
    close: Callable[[Streams, int, int], SublayerRepair | None],
) -> tuple[SublayerRepair, ...]:
    """Carry both on, the dense one ahead to where the next block begins; ``close`` passes the other."""
    dense = BlockStream(model, windows, budget)
    streams = Streams(dense, dense.beside())
    passed = 0
    following = [*(group[0] for group in layout.groups[1:]), layout.blocks]
    told: list[SublayerRepair] = []
    for block, (top, first) in enumerate(zip(layout.tops, following, strict=True)):
        for place in range(passed, first):
            dense.through(blocks(model)[place], place)
        passed = first
        if found := close(streams, top, block):
            told.append(found)
        tell(first)
    return tuple(told)


def _trained(streams: Streams, place: int, block: nn.Module, held: int) -> tuple[nn.Module, SublayerRepair]:
    """A trained copy of the block, or the block itself where training gained nothing held out."""
    dense, short = streams
    pupil = copy.deepcopy(block).float().requires_grad_(True)
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=RATES[0], weight_decay=1e-3)
    # A tensor from inference mode has no gradient.
    contexts = [_fresh(short.context(index, place)) for index in range(len(short))]

    def losses(train: bool) -> float:
        """The mean weighted loss of a pass over the windows that train, or over those held out."""
        total = count = 0.0
        for index in range(len(short)):
            found, wanted, kept = short.at(index), dense.at(index), short.held(index, held)
            rows = slice(None, len(found) - kept) if train else slice(len(found) - kept, None)
            if not len(found[rows]):
                continue
            target = wanted[rows].float()
            with torch.set_grad_enabled(train):  # of the whole batch, which the context was made for
                output = pupil(found.float().clone(), **contexts[index])
                output = (output[0] if isinstance(output, tuple) else output)[rows]
                loss = ((output - target) * token_weights(target)).square().mean()
            if train:
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(pupil.parameters(), 5.0)
                optimiser.step()
            total, count = total + float(loss) * len(target), count + len(target)
        return total / count

    before = best = losses(train=False)
    kept, waited = None, 0
    for epoch in range(EPOCHS):
        share = (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        for group in optimiser.param_groups:
            group["lr"] = RATES[1] + share * (RATES[0] - RATES[1])
        losses(train=True)
        loss = losses(train=False)
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept = loss, {name: value.clone() for name, value in pupil.state_dict().items()}
        if waited == PATIENCE:
            break
    if kept is None:
        return block, SublayerRepair(ridge=None, before=before, after=before)
    pupil.load_state_dict(kept)
    dtype = next(block.parameters()).dtype
    return pupil.to(dtype).requires_grad_(False), SublayerRepair(ridge=0.0, before=before, after=best)


def _fresh(value: Any) -> Any:
    """Copies of all tensors in ``value``, floating ones in fp32."""
    if isinstance(value, Tensor):
        return value.clone().float() if value.is_floating_point() else value.clone()
    if isinstance(value, dict):
        return {key: _fresh(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_fresh(each) for each in value)
    return value

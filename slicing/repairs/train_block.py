"""The block in front of every cut, trained to stand for those that are gone, for every family.

It looks at the stream as it leaves the cut in the dense model, and at nothing inside a block.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from analysis.anatomy import blocks
from analysis.needs import FP32, MemoryNeed
from analysis.stream import BlockStream
from slicing.assembly import spread_like
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.repair import SublayerRepair, token_weights
from slicing.repairs.base import CutRepair, Cuts, Repaired, repair

EPOCHS, PATIENCE = 40, 5
"""Of training: passes over the windows at most, and those without gain after which it stops."""
RATES = (2e-4, 5e-5)
"""Learning rates at the start and at the end, a cosine between (LLM-Streamline, 2403.19135)."""


@repair
class TrainedBlock(CutRepair):
    """The block at each seam, trained to make up for those that are gone.

    So one block stands for itself and the span after it, as in LLM-Streamline (2403.19135), whose light block
    starts with the first removed block's weights. The loss is the squared distance to the dense stream
    there, tokens weighted by the inverse RMS of their target; the windows held out stop it.
    """

    name = "train-block"
    title = "the block before each cut trained"
    trains = True

    def need(self, unrepaired: MemoryNeed, model: Any, layout: Layout, tokens: int, batch: int) -> MemoryNeed:
        """Add one block in fp32 with its gradients, the optimiser's two moments and the best so far."""
        size, width = model.dtype.itemsize, model.config.get_text_config(decoder=True).hidden_size
        if not layout.seams:
            return unrepaired
        largest = max(sum(each.numel() for each in block.parameters()) for block in blocks(model))
        return unrepaired.model_copy(
            update={
                "sliced": unrepaired.sliced + len(layout.seams) * largest * size,
                "working": 2 * unrepaired.working + 5 * largest * FP32,
                "activations": 2 * tokens * width * size,
            }
        )

    @torch.no_grad()
    def close(self, cuts: Cuts) -> Repaired:
        """A plain model with other weights in the trained blocks."""
        closed = reduce_blocks(cuts.dense, cuts.layout, check=False, spread=False)
        plain, listed = blocks(cuts.reduced), blocks(closed)

        def close(cuts: Cuts, dense: BlockStream, short: BlockStream, place: int) -> SublayerRepair | None:
            top = cuts.layout.tops[place]
            if place not in cuts.layout.seams:
                short.through(plain[place], top)
                return None
            home = next(listed[place].parameters()).device
            block = listed[place].to(short.device)
            listed[place], told = _trained(dense, short, top, block, cuts.held)
            short.through(listed[place], top)
            listed[place].to(home)
            return told

        told = cuts.walk(close)
        spread_like(cuts.dense, closed)
        return closed, told


def _trained(
    dense: BlockStream, short: BlockStream, place: int, block: nn.Module, held: int
) -> tuple[nn.Module, SublayerRepair]:
    """A trained copy of the block, or the block itself where training gained nothing held out."""
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

"""One block, trained to lead from one stream to another."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

from analysis.late import nn, torch
from analysis.stream import BlockStream
from slicing.repair import SublayerRepair, token_weights

EPOCHS, PATIENCE = 40, 5
"""Of training: passes over the windows at most, and those without gain after which it stops."""
RATES = (2e-4, 5e-5)
"""Learning rates at the start and at the end, a cosine between (LLM-Streamline, 2403.19135)."""


def train_block(
    dense: BlockStream,
    short: BlockStream,
    place: int,
    block: nn.Module,
    held: int,
    rates: tuple[float, float] = RATES,
    epochs: int = EPOCHS,
    seconds: float = math.inf,
) -> tuple[nn.Module, SublayerRepair]:
    """Train a copy of ``block`` to lead from the stream ``short`` to the stream ``dense``.

    It is called as the block at ``place`` of the model that ``short`` runs through. The loss is the squared
    distance, tokens weighted by the inverse RMS of their target; the last ``held`` windows join no training
    and end it. Gives the block itself where nothing was gained on them. It takes ``seconds`` at most, and
    the pass that it is in then.
    """
    pupil = copy.deepcopy(block).float().requires_grad_(True)
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=rates[0], weight_decay=1e-3)
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
            total, count = total + float(loss.detach()) * len(target), count + len(target)
        return total / count

    before = best = losses(train=False)
    kept, waited, start = None, 0, time.perf_counter()
    for epoch in range(epochs if before > 0.0 else 0):
        share = (1 + math.cos(math.pi * epoch / epochs)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rates[1] + share * (rates[0] - rates[1])
        losses(train=True)
        loss = losses(train=False)
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept = loss, {name: value.clone() for name, value in pupil.state_dict().items()}
        if waited == PATIENCE or time.perf_counter() - start > seconds:
            break
    if kept is None:
        return block, SublayerRepair(ridge=None, before=before, after=before)
    pupil.load_state_dict(kept)
    dtype = next(block.parameters()).dtype
    return pupil.to(dtype).requires_grad_(False), SublayerRepair(ridge=0.0, before=before, after=best)


def _fresh(value: Any) -> Any:
    """Copies of all tensors in ``value``, floating ones in fp32."""
    if isinstance(value, torch.Tensor):
        return value.clone().float() if value.is_floating_point() else value.clone()
    if isinstance(value, dict):
        return {key: _fresh(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_fresh(each) for each in value)
    return value

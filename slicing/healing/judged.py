"""How a model does on examples that are held out: its loss, and how many labels it predicts correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.batches import batch_size
from analysis.device import HOST, out_of_memory_told, widen
from analysis.errors import ModelError
from analysis.evaluate import perplexity
from analysis.late import functional, inference_mode, torch
from analysis.precision import Precision, matmuls
from slicing.healing.examples import Examples

if TYPE_CHECKING:
    from torch import Tensor

AT_A_TIME = 4
"""The part of a usual batch that passes at a time where all logits are made, in training too."""


def held_loss(model: Any, held: Examples, precision: Precision) -> float:
    """Give the mean loss of the tokens that count, in nats per token; for plain text that of its perplexity.

    Raises ``ModelError`` where it is not finite.
    """
    if held.plain:
        return float(np.mean(perplexity(model, held.tokens, precision=precision).nll))
    loss = float(label_nll(model, held, precision).sum()) / held.predicted
    if not np.isfinite(loss):
        raise ModelError("The loss is not finite: open the model in bfloat16 or float32.")
    return loss


def accuracy(model: Any, held: Examples, precision: Precision) -> float | None:
    """Give the share of texts whose label is the likeliest for the model, 0 to 1; ``None`` for plain text.

    Every label of the task is put behind a text, and its log-likelihood is the sum over its tokens.
    """
    if not held.labels:
        return None
    places = range(len(held.labels))
    losses = torch.stack([label_nll(model, held.with_label(place), precision) for place in places])
    return float(np.mean(np.asarray(held.own) == losses.argmin(dim=0).numpy()))


@inference_mode
def label_nll(model: Any, examples: Examples, precision: Precision) -> Tensor:
    """The negative log-likelihood of the tokens that count, summed over each window, (N,), nats."""
    found = []
    size = max(1, batch_size(examples.tokens, model.device) // AT_A_TIME)
    with out_of_memory_told("evaluating", model.device), matmuls(precision, model.device, model.dtype):
        for part in examples.split(size):
            here = part.trimmed().to(model.device)
            logits = model(here.tokens, use_cache=False).logits
            counts = here.counts[:, 1:]
            targets = here.tokens[:, 1:][counts]
            losses = functional.cross_entropy(
                logits[:, :-1][counts].float(), targets.to(logits.device), reduction="none"
            )
            rows = torch.zeros(counts.shape, device=losses.device).masked_scatter(counts, losses)
            found.append(widen(rows, HOST).sum(dim=1))
    return torch.cat(found)

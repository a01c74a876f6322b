"""What lies between any two places of a model: how far the stream turns over a span of blocks, how alike the
blocks' outputs are, and what the head would say after each block.

One forward pass each. Changes nothing and keeps no states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analysis.anatomy import blocks, decoder
from analysis.device import Precision, matmuls, out_of_memory_told
from analysis.errors import ModelError
from analysis.evaluate import batches_of, check_windows, window_nll
from analysis.hooks import going_on_from, returns_tuple, watch_blocks
from analysis.scores import angular_distance, cosine
from analysis.values import Progress, no_progress


class SpanMap(NamedTuple):
    """Of a model of L blocks, for any two places of its stream: in front of block l, and in front of block m.

    The place L is in front of the final norm.
    """

    angular: np.ndarray
    """Angular distance at the last token of each window, mean over windows, (L + 1, L + 1), from 0 to 1
    (Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, 2403.17887, equation 6)."""
    cosine: np.ndarray
    """Mean cosine over all tokens, (L + 1, L + 1) (Chen et al., LLM-Streamline, 2403.19135)."""
    cka: np.ndarray
    """Linear CKA of the same places over the tokens of a window, mean over windows, (L + 1, L + 1): blocks
    that work alike show as patches (Ding et al., Sliding Layer Merging, 2502.19159)."""

    @property
    def blocks(self) -> int:
        """L."""
        return len(self.angular) - 1

    def spans(self, values: np.ndarray, length: int) -> np.ndarray:
        """The values of all spans of so many blocks, by their first block, (L + 1 - length,)."""
        return np.diagonal(values, length)


@torch.inference_mode()
def span_map(model: Any, windows: Tensor, progress: Progress = no_progress) -> SpanMap:
    """The map of all spans over ``windows`` (N, T) of token ids, in one pass without the head.

    Raises ``TextError`` for windows that do not fit, ``ModelError`` when a state is not finite,
    ``OutOfMemoryError``.
    """
    check_windows(model, windows)
    places = len(blocks(model)) + 1
    sums = {name: np.zeros((places, places)) for name in SpanMap._fields}
    done = 0
    with out_of_memory_told("comparing the ends of spans"):
        for window in windows.split(1):  # one at a time: the states of all places are kept
            states: list[Tensor] = []

            def look(block: int, entering: Tensor, leaving: Tensor, states: list[Tensor] = states) -> None:
                if block == 0:
                    states.append(entering.float().to(windows.device))
                states.append(leaving.float().to(windows.device))

            with watch_blocks(model, look):
                decoder(model)(window.to(model.device), use_cache=False)
            grams = [_centred_gram(each[0]) for each in states]
            for first in range(places):
                for second in range(first, places):
                    one, other = states[first], states[second]
                    product = float((grams[first] * grams[second]).sum())
                    found = {
                        "angular": float(angular_distance(one[:, -1], other[:, -1]).mean()),
                        "cosine": float(cosine(one, other).mean()),
                        "cka": product,
                    }
                    for name, value in found.items():
                        sums[name][first, second] += value
                        sums[name][second, first] = sums[name][first, second]
            done += 1
            progress("Comparing spans", done, len(windows))
    for name, total in sums.items():
        total /= len(windows)
        if not np.isfinite(total).all():
            raise ModelError(f"The {name} of a span is not a number: open the model in bfloat16 or float32.")
    return SpanMap(**sums)


def _centred_gram(states: Tensor) -> Tensor:
    """The tokens' centred Gram matrix (T, T), of unit norm."""
    # The first token's massive activation would be all that CKA sees.
    rows = states[1:] if len(states) > 2 else states
    rows = rows - rows.mean(dim=0)
    gram = rows @ rows.T
    return gram / gram.norm().clamp_min(torch.finfo(gram.dtype).tiny)


@torch.inference_mode()
def logit_lens(
    model: Any, windows: Tensor, progress: Progress = no_progress, precision: Precision = "exact"
) -> np.ndarray:
    """Loss when the stream goes from each block straight to the final norm and the head, (N, L).

    In nats per token. The last column is the model's own loss, and column l that of the model cut off after
    block l (Why Lift so Heavy?, 2402.11700). One pass through the blocks, and the head once for every block.
    Raises what ``span_map`` does.
    """
    check_windows(model, windows)
    count, tuples = len(blocks(model)), returns_tuple(model, windows[:1, :8].to(model.device))
    rows: list[np.ndarray] = []
    done, steps = 0, count * len(list(batches_of(windows, model.device)))
    with out_of_memory_told("looking through the head"):
        for batch in batches_of(windows, model.device):
            tokens = batch.to(model.device)
            states: list[Tensor] = []
            with matmuls(precision, model.device, model.dtype):
                with watch_blocks(model, lambda _, entering, leaving: states.append(leaving)):  # noqa: B023
                    decoder(model)(tokens, use_cache=False)
                found = []
                for each in states:
                    with going_on_from(model, count, each, tuples):
                        found.append(np.asarray(window_nll(model, tokens)))
                    done += 1
                    progress("Looking through the head", done, steps)
            rows.append(np.stack(found, axis=1))
    lens = np.concatenate(rows)
    if not np.isfinite(lens).all():
        raise ModelError("A loss of the logit lens is not finite: open the model in float32.")
    return lens

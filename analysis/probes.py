"""Scores that take passes of their own: what happens to the loss when one block is left out or changed, and
what the weights alone tell.

Changes no weight. Knows nothing about slicing: what a block is replaced by comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.anatomy import blocks, decoder
from analysis.batches import batches_of
from analysis.device import out_of_memory_told, precise_home, present
from analysis.errors import ModelError
from analysis.evaluate import check_windows, refuse_unless_batches_fit, runner_of, window_nll
from analysis.hooks import going_on_from, returns_tuple, watch_blocks
from analysis.late import inference_mode, nn, torch, transformers
from analysis.precision import Precision, matmuls
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

Replacement = Callable[[int, "Tensor", "Tensor"], "Tensor"]
"""``replacement(block, entering (B, T, D), tokens (B, T))``: what leaves the block instead, (B, T, D)."""


@inference_mode
def damage(
    model: Any,
    windows: Tensor,
    replacements: dict[str, Replacement],
    progress: Progress = no_progress,
    phase: str = "Probing",
    precision: Precision = "exact",
    among: Mapping[str, Collection[int]] | None = None,
) -> dict[str, np.ndarray]:
    """Rise of each window's loss when one block is replaced, (N, L) nats per token, for each replacement.

    ``windows`` (N, T) of token ids. ``among``, where given, names the blocks that each replacement is tried
    at; that of another is 0. The blocks before the replaced one are computed once for all: half of
    the passes' work. Raises ``ModelError`` when a loss is not finite, ``TextError`` for windows that do not
    fit, ``OutOfMemoryError``.
    """
    check_windows(model, windows)
    refuse_unless_batches_fit(phase, model, windows, len(blocks(model)) + 1)
    count, tuples = len(blocks(model)), returns_tuple(model, windows[:1, :8].to(model.device))
    rises: dict[str, list[np.ndarray]] = {name: [] for name in replacements}
    batches = list(batches_of(windows, model.device))
    tried = {name: sorted(among[name]) if among else range(count) for name in replacements}
    steps, done = len(batches) * sum(map(len, tried.values())), 0
    with out_of_memory_told("probing"):
        runner_of(model)  # how its logits are made is found out once, on all of its blocks
        for batch in batches:
            tokens = batch.to(model.device)
            with matmuls(precision, model.device, model.dtype):
                states = _states(model, tokens)
                with going_on_from(model, count, states[count], tuples):
                    dense = np.asarray(window_nll(model, tokens))
                for name, replacement in replacements.items():
                    rise = np.zeros((len(batch), count))
                    for block in tried[name]:
                        leaving = replacement(block, states[block], tokens)
                        with going_on_from(model, block + 1, leaving, tuples):
                            rise[:, block] = np.asarray(window_nll(model, tokens)) - dense
                        done += 1
                        progress(phase, done, steps)
                    rises[name].append(rise)
    found = {name: np.concatenate(rows) for name, rows in rises.items()}
    for name, rows in found.items():
        if not np.isfinite(rows).all():
            raise ModelError(f"The loss of the probe '{name}' is not finite: open the model in float32.")
    return found


def leave_out(block: int, entering: Tensor, tokens: Tensor) -> Tensor:
    """The replacement that leaves a block out: its input passes through."""
    return entering


def heavy_tail(model: Any) -> np.ndarray:
    """The mean Hill estimate of each block's linear weights, (1, L).

    For each weight the larger half of its eigenvalues (squared singular values) is taken for a power law
    ``density ~ x^-alpha`` from their median m on, where ``alpha = 1 + k / sum ln(x_i / m)`` over the k of
    them (Lu et al., AlphaPruning, 2410.10912, equation 3, with the median for its x_min).
    """
    return np.asarray([[float(np.mean(_exponents(block))) for block in blocks(model)]])


def _exponents(block: nn.Module) -> list[float]:
    found = []
    with present(block):
        for module in block.modules():
            if isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D) and module.weight.ndim == 2:
                weight = module.weight.detach().float()
                small = weight if weight.shape[0] <= weight.shape[1] else weight.T
                squares = (small @ small.T).to(precise_home(small.device))
                found.append(hill(torch.linalg.eigvalsh(squares).cpu().numpy()))
    if not found:
        raise ModelError("The blocks of this model hold no plain linear layer to find an exponent for.")
    return found


def hill(eigenvalues: np.ndarray) -> float:
    """The Hill estimate of the larger half of ``eigenvalues`` (n,), all positive up to rounding."""
    ranked = np.sort(np.maximum(eigenvalues.astype(np.float64), 1e-30))
    half = len(ranked) // 2
    tail = ranked[-half:]
    logs = np.log(tail / ranked[-half - 1])
    return 1.0 + half / float(logs.sum())


def depth(model: Any) -> np.ndarray:
    """Tell how deep each block lies, from 0 to 1, (1, L)."""
    return np.linspace(0.0, 1.0, len(blocks(model)))[None]


def _states(model: Any, tokens: Tensor) -> list[Tensor]:
    """Return the states that enter every block, and those that leave the last."""
    states: list[Tensor] = []
    last = len(blocks(model)) - 1

    def look(block: int, entering: Tensor, leaving: Tensor) -> None:
        states.extend((entering, leaving) if block == last else (entering,))

    with watch_blocks(model, look):
        decoder(model)(tokens, use_cache=False)
    return states

"""Where the loss is curved: the second moment of its gradient at every sub-layer's output, in one pass.

The loss is the cross-entropy to labels that the model itself draws, so that the second moment is its Fisher
information: the second order of the Kullback-Leibler divergence that a small change of the output makes.
Gradients go back block by block, each computed anew with its graph, so that one block at a time is in
memory. Changes no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analysis.anatomy import blocks
from analysis.device import on_device, out_of_memory_told, present
from analysis.errors import ModelError
from analysis.evaluate import check_windows
from analysis.hooks import entering_states, going_on_from, returns_tuple
from analysis.late import functional, no_grad, torch
from analysis.precision import in_calibration
from analysis.sublayers import Sublayer, rms, sublayers
from analysis.values import Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

MASSIVE = 10.0
"""A token whose stream is so many times as large as that of the window's median token, in front of a
sub-layer, does not count there. The first token of a window often is one, and then has most of the gradient's
second moment for itself, which says nothing of how the loss is curved at the others. Where a sub-layer makes
it large, it counts."""
Labels = Literal["sampled", "text"]
"""``sampled``: drawn from the model's own predictions (true Fisher information). ``text``: the next token."""
Streams = tuple["Tensor", "Tensor"]
"""The stream in front of a sub-layer and behind it, (1, T, D) each."""
Visit = Callable[[int, int, Streams, "Tensor", dict[str, Any]], None]
"""``visit(block, row, streams, gradient (1, T, D), context)`` of one sub-layer, from last to first; the
gradient of the summed loss is that at its output."""


class Curvature(NamedTuple):
    """Second moments of the gradient at the output of every sub-layer."""

    moments: tuple[tuple[Tensor, ...], ...]
    """By block and row, (D, D) each, fp32, on the host: the mean over tokens of ``g g' r²``, with ``g`` the
    gradient of the summed loss (nats) and ``r`` the RMS of the stream behind the sub-layer. Massive
    tokens (``MASSIVE``) count as zero."""
    tokens: int
    massive: tuple[tuple[float, ...], ...]
    """By block and row, the share of the trace that massive tokens would have if they counted."""
    changes: tuple[tuple[float, ...], ...] | None = None
    """By block and branch, half the mean over tokens of ``(g' d)²``, with ``d`` what the branch adds to the
    token: what the loss is predicted to rise by without it, in nats per token. ``None`` if not asked for."""


def curvature(
    model: Any,
    windows: Tensor,
    seed: int = 0,
    progress: Progress = no_progress,
    changes: bool = False,
) -> Curvature:
    """Measure the curvature on ``windows`` (N, T) of token ids.

    ``changes``: also what the branches make of it, token by token, for which each runs once more. Raises
    ``ModelError`` where a gradient is not finite, ``TextError`` for windows that do not fit,
    ``OutOfMemoryError``.
    """
    width = model.config.get_text_config(decoder=True).hidden_size
    every = sublayers(model)
    found = [[torch.zeros(width, width) for _ in rows] for rows in every]
    traces = [[torch.zeros(2) for _ in rows] for rows in every]  # of massive tokens, and of all
    made = [[0.0 for row in rows for _ in row.branches] for rows in every]
    starts = np.cumsum([0, *(len(row.branches) for row in every[0])])

    def visit(block: int, row: int, streams: Streams, gradient: Tensor, context: dict[str, Any]) -> None:
        entering, leaving = streams
        if changes:
            for place, each in enumerate(_added(every[block][row], entering, context)):
                change = (gradient.float() * each.float()).sum(-1).square().sum()
                made[block][starts[row] + place] += float(change)
        size = rms(entering)
        counts = size <= MASSIVE * size.median(dim=1, keepdim=True).values
        weighted = gradient.float() * rms(leaving)
        squares = weighted.square().sum(-1, keepdim=True)
        traces[block][row] += torch.stack([(squares * ~counts).sum(), squares.sum()]).to("cpu")
        scaled = (weighted * counts).flatten(0, 1)
        found[block][row] += (scaled.T @ scaled).to("cpu")

    gradients(model, windows, visit, "sampled", seed, progress)
    tokens = windows.numel()
    moments = tuple(tuple(each / tokens for each in row) for row in found)
    if not all(each.isfinite().all() for row in moments for each in row):
        raise ModelError("A gradient is not finite: open the model in float32.")
    massive = tuple(tuple(float(part / all_of) if all_of else 0.0 for part, all_of in row) for row in traces)
    by_branch = tuple(tuple(each / tokens / 2 for each in row) for row in made)
    return Curvature(moments, tokens, massive, by_branch if changes else None)


@no_grad
def _added(sublayer: Sublayer, entering: Tensor, context: dict[str, Any]) -> list[Tensor]:
    """Run each branch of a sub-layer alone, and give what it adds to the stream, (1, T, D)."""
    every = range(len(sublayer.branches))
    with in_calibration(entering):
        return [
            sublayer.added(entering, context, but=[other for other in every if other != one]) for one in every
        ]


def gradients(
    model: Any,
    windows: Tensor,
    visit: Visit,
    labels: Labels = "sampled",
    seed: int = 0,
    progress: Progress = no_progress,
) -> None:
    """Carry the gradient of the summed loss from the head to the first block, one window at a time.

    ``visit`` is called for every sub-layer of every window, where its weights are at hand.
    """
    check_windows(model, windows)
    tuples = returns_tuple(model, windows[:1, :8].to(model.device))
    every = sublayers(model)
    generator = torch.Generator().manual_seed(seed)
    with out_of_memory_told("going back through the blocks", model.device):
        for done, window in enumerate(windows.split(1), start=1):
            tokens = window.to(model.device)
            entering, contexts = _entering(model, tokens, tuples)
            gradient = _at_head(model, tokens, entering[-1], labels, generator, tuples)
            for place in range(len(every) - 1, -1, -1):
                with present(blocks(model)[place]) as device:
                    states, context = entering[place].to(device), on_device(contexts[place], device)
                    gradient = _through(every[place], place, states, gradient, context, visit)
            progress("Going back through the blocks", done, len(windows))


def _entering(model: Any, tokens: Tensor, tuples: bool) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Run the blocks, and give the states in front of each and behind the last, with each one's context."""
    states, contexts = _normal(entering_states(model, tokens, tuples))
    found = [states]
    with torch.no_grad():
        for block, context in zip(blocks(model), contexts, strict=True):
            with in_calibration(found[-1]):
                output = block(found[-1], **on_device(context, found[-1].device))
            found.append((output[0] if isinstance(output, tuple) else output).to(found[-1].dtype))
    return found, contexts


def _normal(value: Any) -> Any:
    """The value with copies for tensors made in inference mode, of which no gradient can be had."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _normal(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_normal(each) for each in value)
    return value


def _at_head(
    model: Any, tokens: Tensor, last: Tensor, labels: Labels, generator: torch.Generator, tuples: bool
) -> Tensor:
    """The gradient of the summed loss at the end of the last block, (1, T, D)."""
    with torch.enable_grad():
        last = last.detach().requires_grad_(True)
        with going_on_from(model, len(blocks(model)), last, tuples), in_calibration(last):
            logits = model(tokens, use_cache=False).logits.float()[0]
        if labels == "text":
            logits, wanted = logits[:-1], tokens[0, 1:].to(logits.device)
        else:
            chances = logits.detach().softmax(-1).cpu()
            wanted = torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)
        loss = functional.cross_entropy(logits, wanted, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [last])
    return gradient


def _through(
    rows: list[Sublayer],
    place: int,
    states: Tensor,
    gradient: Tensor,
    context: dict[str, Any],
    visit: Visit,
) -> Tensor:
    """Carry the gradient (1, T, D) from behind a block to in front of it."""
    with torch.enable_grad():
        streams = [states.detach().requires_grad_(True)]
        for sublayer in rows:
            with in_calibration(states):
                added = sublayer.added(streams[-1], context)
            streams.append(streams[-1] + added)
        found = torch.autograd.grad(streams[-1], streams, gradient.to(streams[-1].device))
    for row in range(len(rows) - 1, -1, -1):
        visit(place, row, (streams[row].detach(), streams[row + 1].detach()), found[row + 1], context)
    return found[0]

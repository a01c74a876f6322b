"""What matters in repair, in bases and in widths, on the demo model: ``make ablation``. Not a test.

Constant slicing, always at as many parameters as a quarter of the width leaves in the published form.
Judged by windows of the calibration text that nothing else sees: the evaluation text chooses nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from analysis.bases import find_bases
from analysis.evaluate import paired, perplexity, safe_precision
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing import repair
from slicing.plans import Plan
from slicing.repair import held_out
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, recut, slice_model, slice_once
from slicing.store import open_model

LENGTH, SKIPPED, JUDGED = 512, 64, 16
"""Tokens of a window, windows of the draw that may calibrate, and those after them that judge."""
SPANS = (0, 1, 2, 3, 5)
MORE = 2
"""Times as many windows calibrate in the last rows."""


def mean_energy(gram: Tensor) -> Tensor:
    """One strength for all features."""
    return torch.full_like(gram.diagonal(), float(gram.diagonal().mean()))


REPAIRS: dict[str, dict[str, Any]] = {
    "repair": {},
    "repair, no ridge": {"RIDGES": (1e-6,)},
    "repair, ridge 0.1": {"RIDGES": (0.1,)},
    "repair, ridge 1": {"RIDGES": (1.0,)},
    "repair, one strength for all features": {"ridge_scale": mean_energy},
    "repair, tokens weigh alike": {"token_weights": lambda target: torch.ones_like(target[..., :1])},
}
"""What differs from repair as it is, by the names of its module."""


def main(windows: int = 16) -> None:
    """Print the table, a row as soon as it is known."""
    source = ModelSource(kind="demo")
    opened = open_model(source)
    model: Any = opened.model
    shape, text = read_shape(model), TextSource(kind="demo", split="calibration")
    drawn = token_windows(text, opened.tokenizer, LENGTH, MORE * windows, 0)
    calibration = drawn[:windows]
    judges = token_windows(text, opened.tokenizer, LENGTH, JUDGED, 0, max(SKIPPED, MORE * windows))
    precision = safe_precision(source, judges, model)
    size = Plan().constant(shape).shape_after(shape).parameters

    def schedule(span: int) -> SlicingSchedule:
        plan = Plan(allocation="constant", settings={}, span=span)
        return plan.at_parameters(size, (0.0,) * shape.block_count, shape)

    def repaired(span: int, some: Tensor, changes: dict[str, Any]) -> SlicedModel:
        with ExitStack() as stack:
            for name, value in changes.items():
                stack.enter_context(patch.object(repair, name, value))
            # As fitted: whether it would be kept is not asked, since the windows that judge say it here.
            return slice_once(model, schedule(span), some, None, lambda _: None, held_out(len(some)))

    def cuts() -> Iterator[tuple[str, int, Callable[[], SlicedModel]]]:
        for span in SPANS:
            yield "", span, lambda span=span: slice_model(model, schedule(span), calibration)
        bases = find_bases(model, calibration)
        for span in (0, 3):
            yield "bases of the dense stream", span, lambda span=span: recut(model, schedule(span), bases)
        yield "repair", 0, lambda: repaired(0, calibration, {})
        for name, changes in REPAIRS.items():
            yield name, 3, lambda changes=changes: repaired(3, calibration, changes)
        more = f"{len(drawn)} windows"
        yield more, 3, lambda: slice_model(model, schedule(3), drawn)
        yield f"repair, {more}", 3, lambda: repaired(3, drawn, {})

    dense = np.asarray(perplexity(model, judges, precision=precision).nll)
    told(f"dense: perplexity {np.exp(dense.mean()):.2f}; {windows} calibration windows\n")
    told("| variant | blocks to a basis | width | perplexity | loss above dense, % | 95 % | s |")
    told("|---|---|---|---|---|---|---|")
    first: np.ndarray | None = None
    for name, span, make in cuts():
        begun = time.perf_counter()
        sliced = make()
        took = time.perf_counter() - begun
        lost = np.asarray(perplexity(sliced.model, judges, precision=precision).nll) - dense
        first = lost if first is None else first
        low, high = paired("constant", name, lost - first).nats_interval or (0.0, 0.0)
        shares = [
            100 * (first.mean() + each) / first.mean() for each in (lost.mean() - first.mean(), low, high)
        ]
        told(
            f"| {name or 'constant'} | {span or 'none'} | {sliced.schedule.widths[1]} | "
            f"{np.exp((dense + lost).mean()):.2f} | {shares[0]:.1f} | {shares[1]:.1f} to {shares[2]:.1f} | "
            f"{took:.0f} |"
        )
        del sliced


def told(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))

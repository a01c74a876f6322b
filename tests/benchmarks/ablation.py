"""What matters in repair and in sharing bases, on the demo model: ``make ablation``. Not a test.

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

from analysis.anatomy import read_shape
from analysis.bases import find_bases
from analysis.evaluate import perplexity
from analysis.source import ModelSource
from analysis.texts import TextSource, token_windows
from slicing import repair
from slicing.plan import Plan
from slicing.slicer import SlicedModel, recut, slice_model
from slicing.store import open_model

LENGTH, SKIPPED, JUDGED = 512, 64, 16
"""Tokens of a window, windows of the draw that may calibrate, and those after them that judge."""
SPANS = (0, 1, 2, 3, 5, 10, 30)


def mean_energy(gram: Tensor) -> Tensor:
    """One strength for all features."""
    return torch.full_like(gram.diagonal(), float(gram.diagonal().mean()))


REPAIRS: dict[str, dict[str, Any]] = {
    "repair": {},
    "repair, no ridge": {"RIDGES": (1e-6,)},
    "repair, ridge 0.1": {"RIDGES": (0.1,)},
    "repair, ridge 1": {"RIDGES": (1.0,)},
    "repair, ridge 10": {"RIDGES": (10.0,)},
    "repair, one strength for all features": {"ridge_scale": mean_energy},
    "repair, tokens weigh alike": {"token_weights": lambda target: torch.ones_like(target[..., :1])},
}
"""What differs from repair as it is, by the names of its module."""


def main(windows: int = 16) -> None:
    """Print the table, a row as soon as it is known."""
    opened = open_model(ModelSource(kind="demo"))
    model: Any = opened.model
    shape, text = read_shape(model), TextSource(kind="demo", split="calibration")
    calibration = token_windows(text, opened.tokenizer, LENGTH, windows, 0)
    judges = token_windows(text, opened.tokenizer, LENGTH, JUDGED, 0, SKIPPED)
    size = Plan().constant(shape).parameters(shape)

    def schedule(span: int) -> Any:
        plan = Plan(allocation="constant", settings={}, span=span)
        return plan.at_parameters(size, (0.0,) * shape.block_count, shape)

    def cuts() -> Iterator[tuple[str, int, Callable[[], SlicedModel]]]:
        for span in SPANS:
            yield "", span, lambda span=span: slice_model(model, schedule(span), calibration)
        bases = find_bases(model, calibration)
        for span in (0, 3):
            yield "bases of the dense stream", span, lambda span=span: recut(model, schedule(span), bases)
        yield "repair", 0, lambda: slice_model(model, schedule(0), calibration, repair=True)
        for name, changes in REPAIRS.items():
            yield name, 3, lambda changes=changes: repaired(changes)

    def repaired(changes: dict[str, Any]) -> SlicedModel:
        with ExitStack() as stack:
            for name, value in changes.items():
                stack.enter_context(patch.object(repair, name, value))
            return slice_model(model, schedule(3), calibration, repair=True)

    dense = float(np.mean(perplexity(model, judges).nll))
    told(f"dense: perplexity {np.exp(dense):.2f}; {windows} calibration windows\n")
    told("| variant | blocks to a basis | width | perplexity | loss above dense, % | s |")
    told("|---|---|---|---|---|---|")
    first = None
    for name, span, make in cuts():
        begun = time.perf_counter()
        sliced = make()
        took = time.perf_counter() - begun
        lost = float(np.mean(perplexity(sliced.model, judges).nll)) - dense
        first = first or lost
        back = " (stepped back)" if sliced.repair and not sliced.repair.kept else ""
        told(
            f"| {name or 'constant'}{back} | {span or 'none'} | {sliced.schedule.widths[1]} | "
            f"{np.exp(dense + lost):.2f} | {100 * lost / first:.1f} | {took:.0f} |"
        )


def told(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))

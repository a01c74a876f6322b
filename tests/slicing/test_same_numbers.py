"""Slicing, repair and removal give the numbers that they gave before: what was stored, to 1e-8 in fp64.

``python tests/slicing/test_same_numbers.py`` stores them anew, for a change that is meant to change them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, it has the tests' own modules too

from conftest import tiny_model

from analysis.bases import find_bases
from analysis.read_shape import read_shape
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model

STORED = Path(__file__).parents[1] / "data" / "numbers.json"
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma", "falcon, sequential")
WINDOWS = torch.randint(3, 300, (12, 16), generator=torch.Generator().manual_seed(1))


def ways(model: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    form: Any = "shared" if read_shape(model).tied else "untied"

    def widths(span: int) -> SlicingSchedule:
        return SlicingSchedule(hidden_size=32, widths=(24, 16, 28, 32), embedding=form, span=span)

    def sliced(span: int, repair: bool) -> Any:
        return slice_model(model, widths(span), WINDOWS, repair=repair).model

    def reduced(repair: str, layout: Layout) -> Any:
        return reduce_model(model, layout, WINDOWS, repair).model

    for span in (0, 2):
        for repair in (False, True):
            yield f"sliced, span {span}{', repaired' * repair}", lambda s=span, r=repair: sliced(s, r)
    yield "one-shot", lambda: recut(model, widths(0), find_bases(model, WINDOWS)).model
    gap = Layout.without(3, {1})
    for repair in ("none", "linear", "last-writer", "writers"):
        yield f"block 1 removed, {repair}", lambda r=repair: reduced(r, gap)
    merged = Layout(blocks=3, groups=((0,), (1, 2)), merge="mean")
    yield "blocks 1 and 2 as one, writers", lambda: reduced("writers", merged)


@torch.no_grad()
def fingerprint(model: Any) -> list[float]:
    """Some logits of the first windows, and the norm of all of them."""
    logits = model(WINDOWS[:3]).logits.double()
    return [float(logits.norm()), *logits[:, -1, :300:60].flatten().tolist()]


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_before(family):
    model, stored = tiny_model(family, torch.float64), json.loads(STORED.read_text())[family]
    found = {name: fingerprint(make()) for name, make in ways(model)}
    assert found.keys() == stored.keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(stored[name], rel=1e-8, abs=1e-8), name


def main() -> None:
    """Store the numbers of the code as it is."""
    found = {
        family: {name: fingerprint(make()) for name, make in ways(model)}
        for family in FAMILIES
        for model in [tiny_model(family, torch.float64)]
    }
    STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

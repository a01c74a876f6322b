"""Models that accelerate spreads or keeps on disk profile, slice and evaluate like those in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import PrefixedDataset
from conftest import tiny_model

from analysis.anatomy import anatomy_of, block_path
from analysis.bases import find_bases
from analysis.details import DetailsCollector
from analysis.evaluate import perplexity
from analysis.lens import logit_lens
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.steps import find_step
from slicing.view import ModelView


def on_disk(model: Any, folder: Path, rest: str = "cpu") -> Any:
    """The model with all blocks but the first on disk; accelerate brings them when they are needed."""
    anatomy, path = anatomy_of(model.config), block_path(model)
    device_map: dict[str, str] = {anatomy.head: rest}
    for name, _ in model.get_submodule(anatomy.decoder).named_children():
        if f"{anatomy.decoder}.{name}" == path:
            device_map |= {f"{path}.{index}": "disk" if index else rest for index in range(3)}
        else:
            device_map[f"{anatomy.decoder}.{name}"] = rest
    return dispatch_model(model, device_map, main_device=rest, offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "falcon"])
@pytest.mark.parametrize(("budget", "span"), [(None, 0), ((0, 3000), 0), ((0, 3000), 2)])
def test_blocks_on_disk_change_nothing(family, budget, span, windows, tmp_path):
    together, apart = tiny_model(family), on_disk(tiny_model(family), tmp_path / "weights")
    assert any(parameter.is_meta for parameter in apart.parameters())
    labels = {"model_label": "", "text_label": ""}
    scores = (profile_blocks(model, windows, **labels).values("lr") for model in (together, apart))
    assert np.array_equal(next(scores), next(scores))
    assert perplexity(apart, windows).nll == perplexity(together, windows).nll
    schedule = SlicingSchedule(
        hidden_size=32,
        widths=(24, 16, 29, 32),
        embedding="shared" if read_shape(together).tied else "untied",
        span=span,
    )
    expected = slice_model(together, schedule, windows).model(windows).logits
    sliced = slice_model(apart, schedule, windows, budget=budget).model
    assert torch.equal(sliced(windows).logits, expected)
    preview = recut(together, schedule, find_bases(together, windows)).model(windows).logits
    again = recut(apart, schedule, find_bases(apart, windows)).model
    assert torch.equal(again(windows).logits, preview)
    assert any(parameter.is_meta for parameter in apart.parameters())  # they went back


@contextmanager
def fetched() -> Iterator[Counter[str]]:
    """Count how often every weight is brought from where it rests."""
    found: Counter[str] = Counter()
    read = PrefixedDataset.__getitem__

    def counted(loader: Any, name: str) -> Any:
        found[loader.prefix + name] += 1
        return read(loader, name)

    with patch.object(PrefixedDataset, "__getitem__", counted):
        yield found


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "falcon"])
def test_every_block_comes_once_for_all_batches(family, windows, tmp_path, monkeypatch):
    """Profile with details, evaluation and logit lens, of three batches: in one group or in several."""
    together, apart = tiny_model(family), on_disk(tiny_model(family), tmp_path / "weights")
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: 2 * windows.shape[1])
    perplexity(apart, windows)  # how its logits are made is found out once
    for free, times in ((10**9, 1), (3 * 2 * 2 * 16 * 32 * 4 + 1, 2)):
        monkeypatch.setattr("analysis.stream.memory_of", lambda device, free=free: (free, free))
        with fetched() as found:
            assert perplexity(apart, windows).nll == perplexity(together, windows).nll
        assert found
        assert set(found.values()) == {times}
    seen = []
    for model in (together, apart):
        details = DetailsCollector(model, windows, cloud=True)
        with fetched() as found:
            profile = profile_blocks(model, windows, model_label="", text_label="", details=details)
        seen.append((profile.measurements, details.details()))
    assert set(found.values()) == {3}  # a third of so little memory has room for one batch's details
    monkeypatch.setattr("analysis.stream.memory_of", lambda device: (10**9, 10**9))
    with fetched() as found:
        np.testing.assert_array_equal(logit_lens(apart, windows), logit_lens(together, windows))
    assert set(found.values()) == {1}
    (one, other), (there, here) = zip(*seen, strict=True)
    assert one == other
    for name in ("change", "growth", "similarity", "angular", "cka"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name), name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_removal_and_repair_take_blocks_on_disk_one_by_one(family, windows, tmp_path):
    together, apart = tiny_model(family), on_disk(tiny_model(family), tmp_path / "weights")
    cut, merged = Layout.without(3, {1}), Layout(blocks=3, groups=((0,), (1, 2)), merge="mean")
    for layout, repair in (
        *((cut, repair) for repair in ("none", "linear", "last-writer", "writers", "train-block")),
        (merged, "none"),
        (merged, "writers"),
    ):
        expected = reduce_model(together, layout, windows, repair)
        found = reduce_model(apart, layout, windows, repair)
        assert torch.equal(found.model(windows).logits, expected.model(windows).logits), repair
        assert found.repair == expected.repair
        assert any(parameter.is_meta for parameter in apart.parameters())  # they went back


def test_methods_of_removal_choose_alike_where_blocks_are_on_disk(windows, tmp_path):
    labels = {"model_label": "", "text_label": ""}
    chosen = []
    for model in (tiny_model("llama"), on_disk(tiny_model("llama"), tmp_path / "weights")):
        view = ModelView(model, windows, profile_blocks(model, windows, **labels))
        chosen.append(
            [find_step(name)().without(view, 1) for name in ("shortgpt", "sleb", "llm-streamline", "laco")]
        )
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("family", "repair"), [("llama", False), ("llama", True), ("gemma", True), ("mixtral", False)]
)
@pytest.mark.parametrize("plain", [False, True])
def test_repaired_and_plain_models_are_the_same_where_blocks_are_on_disk(
    family, repair, plain, windows, tmp_path
):
    together, apart = tiny_model(family), on_disk(tiny_model(family), tmp_path / "weights")
    shape = read_shape(together)
    schedule = SlicingSchedule.from_fractions((0.25,) * 3, 32, 8, "untied")
    if plain:
        schedule = SlicingSchedule.in_one_basis(shape, 24)
    expected, found = (slice_model(model, schedule, windows, repair=repair) for model in (together, apart))
    assert torch.equal(found.model(windows).logits, expected.model(windows).logits)
    assert found.repair == expected.repair
    assert any(parameter.is_meta for parameter in apart.parameters())  # they went back

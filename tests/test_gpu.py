"""The whole path on an accelerator, against the CPU. Skipped where there is none."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.bases import find_bases
from analysis.device import free_memory, memory, out_of_memory_told, pick_device, synchronise
from analysis.errors import OutOfMemoryError
from analysis.evaluate import continue_text, perplexity
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.source import ModelSource, OpenModel, open_dense
from slicing.probes import PROBES, Probing
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.store import load_sliced, save_sliced

DEVICE = pick_device("auto")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA or MPS device"),
]
SCHEDULE = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")


def test_profile_is_that_of_the_cpu(windows):
    here, there = (
        profile_blocks(tiny_model("llama").to(device), windows, model_label="", text_label="")
        for device in ("cpu", DEVICE)
    )
    np.testing.assert_allclose(there.values("lr"), here.values("lr"), atol=1e-4)


def test_sliced_model_has_the_perplexity_of_the_cpu(windows):
    found = []
    for device in ("cpu", DEVICE):
        sliced = slice_model(tiny_model("llama").to(device), SCHEDULE, windows)
        assert all(
            parameter.device.type == sliced.model.device.type for parameter in sliced.model.parameters()
        )
        found.append(perplexity(sliced.model, windows))
    assert found[1].perplexity == pytest.approx(found[0].perplexity, rel=1e-3)


def test_repair_and_probes_are_those_of_the_cpu():
    windows = torch.randint(3, 20, (16, 32), generator=torch.Generator().manual_seed(5))
    errors, rises = [], []
    for device in ("cpu", DEVICE):
        model = tiny_model("llama").to(device)
        repair = slice_model(model, SCHEDULE, windows, repair=True).repair
        assert repair is not None
        errors.append([each.before for each in repair.sublayers])
        rises.append(PROBES["slice-one"](Probing(model, windows, partial(find_bases, model, windows))))
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-2)
    np.testing.assert_allclose(rises[1], rises[0], atol=1e-3)


def test_a_shared_basis_is_that_of_the_cpu(windows):
    shared, found = SCHEDULE.model_copy(update={"span": 2}), []
    for device in ("cpu", DEVICE):
        model = tiny_model("llama").to(device)
        for sliced in (slice_model(model, shared, windows), recut(model, shared, find_bases(model, windows))):
            found.append(perplexity(sliced.model, windows).perplexity)
    assert found[2:] == pytest.approx(found[:2], rel=1e-3)


def test_continuation_is_that_of_the_cpu(windows):
    found = []
    for device in ("cpu", DEVICE):
        sliced = slice_model(tiny_model("llama").to(device), SCHEDULE, windows).model
        found.append(continue_text(OpenModel(sliced, byte_tokenizer()), "ab", 8).text)
    assert found[0] == found[1]


def test_memory_the_device_does_not_have_is_one_sentence():
    with pytest.raises(OutOfMemoryError, match="ran out while testing"), out_of_memory_told("testing"):
        torch.empty(1 << 46, dtype=torch.uint8, device=DEVICE)


def test_sixteen_bits_slice_and_evaluate(windows):
    model = tiny_model("llama", torch.bfloat16).to(DEVICE)
    assert read_shape(model).tied
    sliced = slice_model(model, SCHEDULE, windows)
    assert sliced.model.dtype is torch.bfloat16
    assert np.isfinite(perplexity(sliced.model, windows).perplexity)


def test_saved_on_the_device_opens_on_the_device(windows, tmp_path):
    sliced = slice_model(tiny_model("llama").to(DEVICE), SCHEDULE, windows)
    save_sliced(sliced, byte_tokenizer(), tmp_path / "s", made_from="tiny", calibration="test")
    source = ModelSource.parse(str(tmp_path / "s"), device=str(DEVICE), dtype="float32")
    loaded, tokenizer = load_sliced(source)
    tokens = windows.to(DEVICE)
    assert torch.equal(loaded.model(tokens).logits, sliced.model(tokens).logits)
    assert continue_text(OpenModel(loaded.model, tokenizer), "ab", 4).tokens <= 4


def test_folder_opens_on_the_device_in_sixteen_bits(tiny_folder):
    opened = open_dense(ModelSource.parse(str(tiny_folder)))
    assert opened.model.device.type == DEVICE.type
    assert opened.model.dtype is torch.bfloat16


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA tells its free memory")
def test_memory_is_given_back(windows):
    model = tiny_model("llama", hidden_size=512, intermediate_size=2048).to(DEVICE)
    free_memory()
    synchronise(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    wide = SlicingSchedule(hidden_size=512, widths=(384, 384, 384, 512), embedding="shared")
    sliced = slice_model(model, wide, windows)
    assert torch.cuda.memory_allocated(DEVICE) > before
    del sliced
    gc.collect()
    free_memory()
    assert torch.cuda.memory_allocated(DEVICE) <= before * 1.01
    assert memory(DEVICE)[0] > 0

"""The whole path on a real accelerator, against the CPU. Skipped where there is none."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from test_accelerator import JOBS

from analysis import products
from analysis.device import free_memory, memory_of, out_of_memory_told, pick_device, synchronise
from analysis.errors import OutOfMemoryError
from analysis.evaluate import continue_text, perplexity
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel, open_dense
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import load_sliced, save_sliced

DEVICE = pick_device("auto")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA or MPS device"),
]
SCHEDULE = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_done_as_on_the_cpu(job, dtype, windows, tmp_path):
    """Each of the jobs that the simulated accelerator does in ``test_accelerator``."""
    found = []
    for device in ("cpu", DEVICE):
        (folder := tmp_path / str(device).replace(":", "-")).mkdir()
        found.append(JOBS[job](tiny_model("llama", dtype).to(device), windows[:4], folder))
    if dtype is torch.bfloat16 and job.startswith("generate"):  # near ties are decided by rounding
        return
    assert found[1] == pytest.approx(found[0], rel=1e-2 if dtype is torch.float32 else 0.1)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA tells its free memory")
def test_what_does_not_fit_is_refused_before_any_work(windows, monkeypatch):
    model = tiny_model("llama").to(DEVICE)
    monkeypatch.setattr("analysis.needs.memory_of", lambda device: (1000, 2000))
    with pytest.raises(OutOfMemoryError, match=r"^Slicing does not fit on cuda:0: it takes about"):
        slice_model(model, SCHEDULE, windows)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="a function of CUDA")
def test_products_by_halves_are_those_of_fp32(monkeypatch):
    monkeypatch.setattr(products, "in_halves", lambda device: True)
    first, second = torch.randn(2, 64, 512, device=DEVICE), torch.randn(512, 256, device=DEVICE)
    size = first.norm(dim=-1)[..., None] * second.norm(dim=0)
    error = (products.product(first, second) - first.double() @ second.double()).abs() / size
    assert float(error.max()) < 2**-17


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
    assert memory_of(DEVICE)[0] > 0

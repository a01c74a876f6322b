"""A sliced model is stored whole or not at all, whoever notices that the disk is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors import SafetensorError

from analysis.errors import StorageError
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, slice_model
from slicing.store import load_sliced, save_sliced

SCHEDULE = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")
WRITES = "slicing.modeling_sliced.SlicedForCausalLM.save_pretrained"
FULL = "No space left on device (os error 28)"


@pytest.fixture
def sliced(windows: torch.Tensor) -> SlicedModel:
    return slice_model(tiny_model("llama"), SCHEDULE, windows)


def save(sliced: SlicedModel, folder: Path) -> None:
    save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="a text")


def failing(error: Exception) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (WRITES, SafetensorError(f"Error while serializing: I/O error: {FULL}")),
        ("transformers.PreTrainedTokenizerFast.save_pretrained", Exception(FULL)),  # as tokenizers says it
        ("pathlib.Path.write_text", OSError(28, "No space left on device")),
    ],
)
def test_full_disk_is_one_sentence_and_leaves_nothing(sliced, tmp_path, monkeypatch, place, error):
    folder = tmp_path / "models" / "sliced"
    with monkeypatch.context() as patch:
        patch.setattr(place, failing(error))
        with pytest.raises(StorageError, match=r"sliced' cannot be .* the disk is full; free some space and"):
            save(sliced, folder)
    assert list(folder.parent.iterdir()) == []
    save(sliced, folder)
    assert load_sliced(ModelSource.parse(str(folder)))[0].schedule == SCHEDULE


def test_error_that_is_not_of_the_disk_passes_as_it_is(sliced, tmp_path, monkeypatch):
    error = SafetensorError("Some tensors share memory")
    monkeypatch.setattr(WRITES, failing(error))
    with pytest.raises(SafetensorError) as raised:
        save(sliced, tmp_path / "sliced")
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, told", [("x" * 300, "choose a shorter one"), ("file/sliced", "choose another folder")]
)
def test_place_that_cannot_hold_a_folder_is_one_sentence(sliced, tmp_path, name, told):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=told):
        save(sliced, tmp_path / name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_stored_model_opens_in_the_dtype_asked_for(sliced, tmp_path, windows, dtype):
    save(sliced, tmp_path / "sliced")
    source = ModelSource.parse(str(tmp_path / "sliced"), dtype=dtype)
    loaded = load_sliced(source)[0].model
    assert {str(parameter.dtype) for parameter in loaded.parameters()} == {f"torch.{dtype}"}
    assert loaded.dtype == getattr(torch, dtype)
    assert not any(parameter.is_meta for parameter in [*loaded.parameters(), *loaded.buffers()])
    assert describe(source).dtype == dtype
    found, expected = loaded(windows).logits, sliced.model(windows).logits
    assert float((found - expected).norm() / expected.norm()) < (0.05 if dtype == "bfloat16" else 1e-5)


def test_folder_holds_plain_formats_only(sliced, tmp_path):
    save(sliced, tmp_path / "sliced")
    suffixes = {path.suffix for path in (tmp_path / "sliced").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".py", ".md"}

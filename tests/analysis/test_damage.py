"""Folders that are damaged or put together wrongly: one sentence each, and never made-up weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import tiny_config
from transformers import AutoConfig, AutoModelForCausalLM

from analysis.errors import ModelError, OutOfMemoryError, SlicescopeError, StorageError
from analysis.evaluate import continue_text
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from slicing.modeling_sliced import SlicedForCausalLM
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import load_sliced, open_model, save_sliced

Change = Callable[[Path], object]


def edit(file: str, **fields: Any) -> Change:
    """Set fields of a JSON file; ``a__b`` is field b of field a."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        for name, value in fields.items():
            outer, _, inner = name.rpartition("__")
            (content[outer] if outer else content)[inner] = value
        (folder / file).write_text(json.dumps(content))

    return change


def write(file: str, content: str) -> Change:
    return lambda folder: (folder / file).write_text(content)


def cut(file: str, size: int) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def remove(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def sentence(error: pytest.ExceptionInfo[SlicescopeError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not message.endswith("..")
    return message


@pytest.fixture
def sliced_folder(tmp_path: Path, windows: torch.Tensor) -> Path:
    schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")
    sliced = slice_model(tiny_model("llama"), schedule, windows)
    save_sliced(sliced, byte_tokenizer(), tmp_path / "sliced", made_from="tiny", calibration="test")
    return tmp_path / "sliced"


DENSE: dict[str, tuple[Change, str]] = {
    "empty configuration": (write("config.json", ""), "not a valid JSON file"),
    "configuration of another kind": (write("config.json", "null"), "cannot be read"),
    "unknown architecture": (edit("config.json", model_type="nonsense"), "`nonsense`"),
    "width in words": (edit("config.json", hidden_size="big"), 'says hidden_size = "big"'),
    "no heads": (edit("config.json", num_attention_heads=0), "whole number from 1 to"),
    "heads that do not divide the width": (edit("config.json", num_attention_heads=5), "not a multiple"),
    "unknown activation": (edit("config.json", hidden_act="nonsense"), "no entry 'nonsense'"),
    "larger vocabulary": (edit("config.json", vocab_size=400), "cannot be read"),
    "weights cut short": (cut("model.safetensors", 5000), "is cut short, with 5,000 bytes of"),
    "empty weights": (write("model.safetensors", ""), "is cut short, with 0 bytes"),
    "no weights": (remove("model.safetensors"), "are never opened"),
    "tokenizer of another kind": (write("tokenizer.json", "[]"), "cannot be read"),
    "broken tokenizer": (write("tokenizer.json", "{"), "cannot be read"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer"),
}


@pytest.mark.parametrize(("change", "said"), DENSE.values(), ids=list(DENSE))
def test_damaged_model_is_one_sentence(tiny_folder, change, said):
    change(tiny_folder)
    with pytest.raises(ModelError) as error:
        open_dense(ModelSource.parse(str(tiny_folder)))
    assert said in sentence(error)


def test_weights_that_are_missing_are_not_made_up(tiny_folder):
    edit("config.json", num_hidden_layers=5)(tiny_folder)
    with pytest.raises(ModelError, match=r"lacks 18 of the weights .*'model\.layers\.3\."):
        open_dense(ModelSource.parse(str(tiny_folder)))


SLICED: dict[str, tuple[Change, str]] = {
    "empty manifest": (write("slicescope.json", ""), "is not a readable Manifest"),
    "manifest of a later version": (edit("slicescope.json", format=3), "format: Input should be 2"),
    "no width": (edit("slicescope.json", schedule__widths=[0, 16, 29, 32]), "must lie between 1 and 32"),
    "too few widths": (edit("slicescope.json", schedule__widths=[24, 16, 32]), "is for 2 blocks"),
    "too many widths": (edit("slicescope.json", schedule__widths=[24, 16, 29, 32, 32]), "is for 4 blocks"),
    "other widths": (edit("slicescope.json", schedule__widths=[24, 16, 30, 32]), "do not fit its"),
    "other embedding": (edit("slicescope.json", schedule__embedding="untied"), "do not fit its"),
    "more blocks": (edit("config.json", text_config__num_hidden_layers=4), "do not fit its"),
    "other inner width": (edit("config.json", text_config__intermediate_size=50), "do not fit its"),
    "family of other parts": (edit("config.json", text_config__model_type="qwen3"), "do not fit its"),
    "no heads": (edit("config.json", text_config__num_attention_heads=0), "whole number from 1 to"),
    "no configuration": (remove("config.json"), "cannot be read"),
    "no weights": (remove("model.safetensors"), "are never opened"),
    "weights cut short": (cut("model.safetensors", 5000), "file not fully covered"),
    "tokenizer of another kind": (write("tokenizer.json", "[]"), "cannot be read"),
}


@pytest.mark.parametrize(("change", "said"), SLICED.values(), ids=list(SLICED))
def test_damaged_sliced_model_is_one_sentence(sliced_folder, change, said):
    change(sliced_folder)
    with pytest.raises((ModelError, StorageError)) as error:
        open_model(ModelSource.parse(str(sliced_folder)))
    assert said in sentence(error)


def test_card_of_a_sliced_model_counts_what_is_there(sliced_folder):
    source = ModelSource.parse(str(sliced_folder))
    card = describe(source)
    assert card.parameters == sum(p.numel() for p in open_model(source).model.parameters())
    assert "sliced already" in str(card.not_sliceable)
    with pytest.raises(ModelError, match="is a sliced model; a dense one is needed"):
        open_dense(source)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parameters": "many"}'])
def test_card_of_a_sliced_model_without_a_manifest_is_one_sentence(sliced_folder, content):
    write("slicescope.json", content)(sliced_folder)
    with pytest.raises(ModelError) as error:
        describe(ModelSource.parse(str(sliced_folder)))
    sentence(error)


def test_missing_manifest_is_one_sentence(tiny_folder):
    with pytest.raises(StorageError, match=r"slicescope\.json' cannot be read .* does not exist"):
        load_sliced(ModelSource.parse(str(tiny_folder)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_not_taken_for_damage(tiny_folder, sliced_folder, monkeypatch, error):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    monkeypatch.setattr(SlicedForCausalLM, "from_pretrained", fail)
    for folder in (tiny_folder, sliced_folder):
        with pytest.raises(OutOfMemoryError, match=f"ran out while loading {folder.name}"):
            open_model(ModelSource.parse(str(folder)))


@pytest.fixture
def trap(tmp_path: Path) -> tuple[str, Path]:
    """A module that leaves a trace when it is executed, and where it leaves it."""
    trace = tmp_path / "executed"
    return f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own: pass\n", trace


def set_trap(folder: Path, code: str) -> None:
    (folder / "own.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "generate = Own\n")
    names = ("AutoConfig", "AutoModelForCausalLM")
    edit("config.json", auto_map=dict.fromkeys(names, "own.Own"))(folder)
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})(folder)


def test_code_beside_a_known_model_is_left_alone(tiny_folder, trap):
    code, trace = trap
    set_trap(tiny_folder, code)
    opened = open_dense(ModelSource.parse(str(tiny_folder)))
    continue_text(opened, "ab", 2)
    assert type(opened.model).__name__ == "LlamaForCausalLM"
    assert not trace.exists()


@pytest.mark.parametrize("known", [True, False])
def test_code_beside_a_sliced_model_is_not_even_asked_about(sliced_folder, trap, monkeypatch, known):
    code, trace = trap
    set_trap(sliced_folder, code)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers asks whether to trust it"))
    if not known:
        edit("config.json", model_type="own")(sliced_folder)
    model = open_model(ModelSource.parse(str(sliced_folder))).model
    assert type(model) is SlicedForCausalLM
    assert not trace.exists()


def test_card_of_a_model_without_attention_has_no_heads(tmp_path):
    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=300)
    config.save_pretrained(tmp_path)
    card = describe(ModelSource.parse(str(tmp_path)))
    assert (card.heads, card.key_value_heads, card.blocks) == (0, 0, 2)


def test_card_of_a_model_whose_blocks_differ_in_their_heads_has_no_number(tmp_path):
    tiny_config("dots3_note_text").save_pretrained(tmp_path)
    card = describe(ModelSource.parse(str(tmp_path)))
    assert (card.heads, card.blocks) == (0, 3)


def test_card_of_a_model_that_knows_no_tied_head_says_its_own(tmp_path):
    tiny_config("inkling_text").save_pretrained(tmp_path)
    assert describe(ModelSource.parse(str(tmp_path))).tied is False

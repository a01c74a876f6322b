"""Folders hold settings under the names of transformers 4 too, and nothing that does not hold for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import NOT_TRIED, causal_types, tiny_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from analysis.portable import make_portable, with_old_names
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.store import save_reduced

THETA = 123_456.0
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"rope_type": "default"}),
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 4.0}),
    "yarn": ("llama", {"rope_type": "yarn", "factor": 4.0}),
    "llama3": ("llama", {"rope_type": "llama3", **LLAMA3}),
    "longrope": ("phi3", {"rope_type": "longrope", **LONG}),
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**read(path), **fields}), encoding="utf-8")


def saved(folder: Path, family: str = "llama", **changes: Any) -> Any:
    """A tiny model whose removal of a block was stored, as ``slicescope remove`` does; the dense model."""
    model = tiny_model(family, **changes)
    reduced = reduce_model(model, Layout.without(len(list(model.get_decoder().layers)), {1}))
    words = {"made_from": "tiny", "method": "by hand", "calibration": "nothing"}
    save_reduced(reduced, byte_tokenizer(), folder, dense_parameters=10**6, **words)
    return reduced.model


@pytest.mark.parametrize(("family", "rope"), SCALED.values(), ids=list(SCALED))
def test_rotary_positions_have_both_names_and_are_read_as_they_were(tmp_path, windows, family, rope):
    model = saved(tmp_path / "made", family, rope_parameters={"rope_theta": THETA, **rope})
    config = read(tmp_path / "made" / "config.json")
    assert (config["rope_theta"], config["dtype"], config["torch_dtype"]) == (THETA, "float32", "float32")
    old = config.get("rope_scaling")
    if rope["rope_type"] == "default":
        assert old is None
    elif family == "phi3":  # takes three names and no others
        assert old == {"type": "longrope", **LONG}
    else:
        assert rope.items() <= old.items()
        assert "rope_theta" not in old
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    long = windows.repeat(1, 4)
    assert torch.equal(again(long).logits, model(long).logits)
    assert again.config.rope_parameters.items() >= model.config.rope_parameters.items()


def test_local_and_global_base_have_the_old_names(tmp_path, windows):
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 777.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": THETA},
    }
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    model = saved(tmp_path / "made", "gemma3_text", rope_parameters=rope, layer_types=kinds, head_dim=8)
    config = read(tmp_path / "made" / "config.json")
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (THETA, 777.0)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert torch.equal(again(windows).logits, model(windows).logits)


@pytest.mark.parametrize("model_type", [each for each in causal_types() if each not in NOT_TRIED])
def test_old_names_change_nothing_that_is_read_here(model_type, tmp_path):
    tiny_config(model_type).save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path).to_dict()
    made = with_old_names(read(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text(json.dumps(made))
    after = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {name: after.get(name) for name in before} == before


def test_family_that_lost_a_name_has_it(tmp_path):
    tiny_model("qwen3_moe").config.save_pretrained(tmp_path)
    made = with_old_names(read(tmp_path / "config.json"))
    assert (made["num_experts"], made["num_local_experts"]) == (4, 4)


def test_family_that_is_scaled_unless_told_otherwise_is_told(tmp_path):
    rope = {"rope_type": "default", "rope_theta": THETA}
    tiny_model("apertus", rope_parameters=rope).config.save_pretrained(tmp_path)
    made = with_old_names(read(tmp_path / "config.json"))
    assert (made["rope_theta"], made["rope_scaling"]) == (THETA, None)


def test_tokenizer_is_of_a_class_that_both_versions_know(tiny_folder):
    change(tiny_folder / "tokenizer_config.json", extra_special_tokens=["<pad>"], is_local=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.save_pretrained(tiny_folder)
    assert read(tiny_folder / "tokenizer_config.json")["tokenizer_class"] == "TokenizersBackend"
    make_portable(tiny_folder, tokenizer)
    made = read(tiny_folder / "tokenizer_config.json")
    assert made["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert made["model_input_names"] == ["input_ids", "attention_mask"]  # else transformers 4 adds types
    assert made["padding_side"] == "left"
    assert (made["additional_special_tokens"], "extra_special_tokens" in made) == (["<pad>"], False)
    assert not {"backend", "is_local", "local_files_only"} & set(made)
    again = AutoTokenizer.from_pretrained(tiny_folder)
    assert again("the union").input_ids == tokenizer("the union").input_ids
    assert again.all_special_tokens == tokenizer.all_special_tokens


def test_code_that_is_not_in_the_folder_is_not_named(tiny_folder):
    names = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "owner/name--own.Own"}
    change(tiny_folder / "config.json", auto_map=names)
    change(tiny_folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    make_portable(tiny_folder, byte_tokenizer())
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in read(tiny_folder / name)
    (tiny_folder / "configuration_own.py").touch()
    change(tiny_folder / "config.json", auto_map=names)
    make_portable(tiny_folder, byte_tokenizer())
    assert read(tiny_folder / "config.json")["auto_map"] == {"AutoConfig": "configuration_own.Own"}


def test_settings_of_a_quantiser_go_where_the_weights_are_plain(tiny_folder):
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    change(tiny_folder / "config.json", quantization_config=quantised)
    path = tiny_folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "code": torch.zeros(2, dtype=torch.uint8)}, path, metadata={"format": "pt"})
    make_portable(tiny_folder, byte_tokenizer())
    assert read(tiny_folder / "config.json")["quantization_config"] == quantised
    save_file(weights, path, metadata={"format": "pt"})
    make_portable(tiny_folder, byte_tokenizer())
    assert "quantization_config" not in read(tiny_folder / "config.json")

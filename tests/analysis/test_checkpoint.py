"""Where a configuration and the weights disagree, the weights are right, or the model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

from analysis.errors import ModelError
from analysis.read_shape import read_shape
from analysis.sources.card import describe
from analysis.sources.configuration import read_config, shape_of
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.store import save_reduced


def folder_of(folder: Path, family: str = "llama", **changes: Any) -> Path:
    tiny_model(family, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def say(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder: Path, **more: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})


def source_of(folder: Path) -> ModelSource:
    return ModelSource.parse(str(folder))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma"])
def test_head_of_its_own_is_counted_whatever_the_configuration_says(tmp_path, windows, family):
    folder = folder_of(tmp_path / "wrong", family, tie_word_embeddings=False)
    right = open_dense(source_of(folder)).model(windows).logits
    counted = describe(source_of(folder)).parameters
    say(folder, tie_word_embeddings=True)
    card, opened = describe(source_of(folder)), open_dense(source_of(folder))
    assert (card.tied, card.parameters) == (False, counted)
    shape = read_shape(opened.model)
    assert shape == shape_of(source_of(folder))
    assert (shape.tied, shape.parameters) == (False, counted)
    assert torch.equal(opened.model(windows).logits, right)
    reduced = reduce_model(opened.model, Layout.without(3, {1}))  # once refused for its logits
    words = {"made_from": "tiny", "method": "by hand", "calibration": "nothing"}
    save_reduced(reduced, opened.tokenizer, tmp_path / "out", dense_parameters=counted, **words)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    again = open_dense(source_of(tmp_path / "out")).model
    assert torch.equal(again(windows).logits, reduced.model(windows).logits)


def test_one_table_that_is_stored_twice_is_counted_once(tmp_path, windows):
    folder = folder_of(tmp_path / "twice", tie_word_embeddings=True)
    right = open_dense(source_of(folder)).model(windows).logits
    counted = describe(source_of(folder)).parameters
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, **{"lm_head.weight": table.clone()})
    for said in (True, False):
        say(folder, tie_word_embeddings=said)
        card, model = describe(source_of(folder)), open_dense(source_of(folder)).model
        assert (card.tied, card.parameters, read_shape(model).tied) == (True, counted, True)
        assert sum(parameter.numel() for parameter in model.parameters()) == counted
        assert torch.equal(model(windows).logits, right)


def test_table_that_is_stored_once_is_what_the_configuration_says(tmp_path):
    folder = folder_of(tmp_path / "once", tie_word_embeddings=True)
    assert read_config(source_of(folder)).tie_word_embeddings is True
    say(folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks 1 of the weights .*'lm_head\.weight'"):
        open_dense(source_of(folder))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "olmo2"])
def test_blocks_that_would_be_left_out_are_refused(tmp_path, family):
    folder = folder_of(tmp_path / "cut", family, num_hidden_layers=5)
    say(folder, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 3})
    said = r"^The weights of 'cut' are of 5 blocks, and its configuration says 3, so .*\.$"
    for read in (describe, open_dense):
        with pytest.raises(ModelError, match=said):
            read(source_of(folder))


def test_checkpoint_without_the_prefix_is_counted_too(tmp_path):
    folder = folder_of(tmp_path / "cut", "gpt2")
    path = folder / "model.safetensors"
    weights = {name.removeprefix("transformer."): each for name, each in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert describe(source_of(folder)).blocks == 3
    assert len(open_dense(source_of(folder)).model.transformer.h) == 3
    say(folder, n_layer=2)
    for read in (describe, open_dense):
        with pytest.raises(ModelError, match="are of 3 blocks, and its configuration says 2"):
            read(source_of(folder))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_weights_that_the_model_would_lack_are_refused(tiny_folder, name):
    change_weights(tiny_folder, **{name: torch.ones(32)})
    with pytest.raises(ModelError, match=rf"holds 1 of its own weights .*'{name}'.*\.$"):
        open_dense(source_of(tiny_folder))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.bias",  # a mask, as older GPTs stored it
        "model.layers.0.self_attn.masked_bias",
        "vision_tower.layers.7.weight",
        "mtp.layers.9.weight",
        "v_head.summary.weight",
    ],
)
def test_what_stands_beside_the_model_is_passed_by(tiny_folder, windows, name):
    right = open_dense(source_of(tiny_folder)).model(windows).logits
    change_weights(tiny_folder, **{name: torch.ones(4)})
    assert describe(source_of(tiny_folder)).blocks == 3
    assert torch.equal(open_dense(source_of(tiny_folder)).model(windows).logits, right)


def test_blocks_that_predict_further_tokens_are_passed_by(tmp_path):
    folder = folder_of(tmp_path / "further", num_hidden_layers=4)
    say(folder, num_hidden_layers=3, num_nextn_predict_layers=1)
    assert describe(source_of(folder)).blocks == 3
    assert open_dense(source_of(folder)).model.config.num_hidden_layers == 3

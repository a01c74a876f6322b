"""What a model's files may not do to whoever opens them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import NOT_TRIED, causal_types, tiny_config
from model_hub import ask, hub_of
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from analysis.errors import ModelError, SlicescopeError
from analysis.evaluate import continue_text
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.trust import check_numbers, pin


def source_of(folder: Path) -> ModelSource:
    return ModelSource.parse(str(folder))


def say(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as error:
        open_dense(source_of(folder))
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def sharded(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_pieces_beside_their_index_are_opened(tmp_path, windows):
    model = open_dense(source_of(sharded(tmp_path / "model"))).model
    assert torch.equal(model(windows).logits, tiny_model("llama")(windows).logits)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../outside.safetensors", "/absolute.safetensors", "a/b"]
)
def test_index_leads_to_no_other_files(tmp_path, name, monkeypatch):
    folder = sharded(tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    place = next(iter(said["weight_map"]))
    torch.save({place: torch.zeros(1)}, folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    said["weight_map"][place] = name
    index.write_text(json.dumps(said))
    refused(folder, f"names '{name}', but only safetensors files beside it are opened")


def test_pieces_that_the_index_names_have_to_be_there(tmp_path):
    folder = sharded(tmp_path / "model")
    min(folder.glob("*.safetensors")).unlink()
    refused(folder, r"lacks its weights 'model-00001-of-\d+\.safetensors'")


def test_no_configuration_chooses_the_file_of_weights(tiny_folder, windows):
    right = open_dense(source_of(tiny_folder)).model(windows).logits
    torch.save({}, tiny_folder / "adapter_model.bin")
    say(tiny_folder, transformers_weights="adapter_model.bin")
    assert torch.equal(open_dense(source_of(tiny_folder)).model(windows).logits, right)


def test_adapter_is_refused(tiny_folder):
    (tiny_folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
    refused(tiny_folder, "holds an adapter .* merge it into that model")


def test_pieces_of_a_distributed_checkpoint_are_refused(tiny_folder):
    (tiny_folder / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"")
    refused(tiny_folder, "pieces of a distributed checkpoint")


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "model.safetensors"])
def test_pipe_in_a_folder_is_refused_at_once(tiny_folder, name):
    (tiny_folder / name).unlink(missing_ok=True)
    os.mkfifo(tiny_folder / name)
    refused(tiny_folder, f"'{name}' of the model '{tiny_folder.name}' is not a file")


FOREIGN = [
    "kernels-community/flash-attn",
    "owner/code@main:attention",
    "flash_attention_2",
    "flex_attention",
    "x",
]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_no_configuration_chooses_what_runs_it(tiny_folder, windows, field, name):
    right = open_dense(source_of(tiny_folder)).model(windows).logits
    say(tiny_folder, **{field: name})
    model = open_dense(source_of(tiny_folder)).model
    assert torch.equal(model(windows).logits, right)
    assert describe(source_of(tiny_folder)).blocks == 3


def test_configurations_inside_are_pinned_too():
    config: Any = tiny_config("gemma3")
    config.text_config._attn_implementation = "owner/code"
    config.vision_config._experts_implementation = "owner/code"
    config.auto_map = {"AutoModelForCausalLM": "own.Own"}
    pin(config)
    assert config.text_config._attn_implementation is None
    assert config.vision_config._experts_implementation is None
    assert not hasattr(config, "auto_map")


def test_eager_attention_stays_what_it_is(tiny_folder):
    say(tiny_folder, attn_implementation="eager")
    assert open_dense(source_of(tiny_folder)).model.config._attn_implementation == "eager"


@pytest.mark.parametrize("there", [True, False])
def test_name_on_the_hub_never_opens_a_local_folder(tmp_path, monkeypatch, there):
    for place, count in ((tmp_path / "work" / "owner" / "tiny", 2), (tmp_path / "hub/owner/tiny/main", 3)):
        tiny_model("llama", num_hidden_layers=count).save_pretrained(place)
        byte_tokenizer().save_pretrained(place)
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with hub_of(tmp_path / ("hub" if there else "nothing")) as hub:
        ask(hub, tmp_path / "cache", monkeypatch)
        for revision in (None, "main"):
            source = ModelSource(kind="hub", location="owner/tiny", revision=revision)
            if there:
                assert describe(source).blocks == open_dense(source).model.config.num_hidden_layers == 3
                continue
            for read in (describe, open_dense):
                with pytest.raises(ModelError, match="is not on the Hub"):
                    read(source)


ABSURD = [0, -1, 10**6, 10**12, "3", 2.5, True, None]


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads"])
@pytest.mark.parametrize("value", ABSURD)
def test_absurd_number_is_refused_before_anything_is_built(tiny_folder, name, value, monkeypatch):
    if value == 10**6 and name != "num_hidden_layers":
        pytest.skip("a number that a model might have")
    say(tiny_folder, **{name: value})
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("built"))
    refused(tiny_folder, rf"says {name} = {json.dumps(value)}, but that has to be a whole number from 1 to")


@pytest.mark.parametrize(
    "name", ["intermediate_size", "head_dim", "num_key_value_heads", "max_position_embeddings"]
)
@pytest.mark.parametrize("value", [-1, 10**12, "3", 2.5, True])
def test_other_sizes_are_bounded_too(tiny_folder, name, value):
    say(tiny_folder, **{name: value})
    refused(tiny_folder, rf"says {name} = .*, but that has to be a whole number")


@pytest.mark.parametrize("model_type", sorted({*causal_types()} - {*NOT_TRIED}))
def test_no_type_is_refused_for_its_numbers(model_type):
    check_numbers(json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False)), model_type)
    check_numbers(json.loads(tiny_config(model_type).to_json_string()), model_type)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_hidden_layers": 1000}, "asks for .* weights, and its files hold"),
        ({"vocab_size": 2_000_000}, "asks for .* weights, and its files hold"),
        ({"intermediate_size": 2_000_000}, "asks for .* weights, and its files hold"),
    ],
)
def test_more_than_the_weights_hold_is_refused_before_they_are_read(
    tiny_folder, monkeypatch, fields, sentence
):
    say(tiny_folder, **fields)
    monkeypatch.setattr("analysis.sources.opening._read_weights", lambda *_, **__: pytest.fail("read"))
    refused(tiny_folder, sentence)
    with pytest.raises(ModelError, match=sentence):
        describe(source_of(tiny_folder))


def test_tables_that_nobody_has_the_memory_for_are_refused(tmp_path):
    tiny_model("gptj").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    say(tmp_path, n_positions=2**28, rotary_dim=64)
    refused(tmp_path, r"asks for tables of \d+ GB beside the weights")


def test_reports_of_transformers_never_reach_the_terminal(tiny_folder, capfd):
    say(tiny_folder, num_hidden_layers=5)
    refused(tiny_folder, "lacks 18 of the weights")
    assert capfd.readouterr() == ("", "")


def test_no_kernels_are_fetched_from_the_hub():
    from transformers.integrations import hub_kernels

    assert hub_kernels._kernels_enabled is False


TOKENIZERS: dict[str, dict[str, Any]] = {
    "bad pattern": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(["},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "huge pattern": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(" * 10_000}, "content": ""}},
    "no unknown token": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}},
    "numbers for words": {"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}},
    "unknown merges": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["x", "y"]]}},
    "no vocabulary": {"model": {"type": "Unigram", "unk_id": 5, "vocab": []}},
    "wrong types": {"added_tokens": "none"},
    "unknown kind": {"model": {"type": "nonsense"}},
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=list(TOKENIZERS))
def test_tokenizer_that_explodes_is_one_sentence(tiny_folder, tmp_path, change):
    path = tiny_folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (tmp_path / "text.txt").write_text("some words of a text " * 100)
    source = TextSource(kind="file", location=str(tmp_path / "text.txt"))
    with pytest.raises(SlicescopeError) as error:
        opened = open_dense(source_of(tiny_folder))
        continue_text(opened, "words", 1)
        token_windows(source, opened.tokenizer, 8, 2)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)

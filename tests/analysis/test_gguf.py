"""GGUF files, written here by hand: what is read is what was written, and what is damaged is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from conftest import tiny_model
from gguf_files import TOKENS, write_gguf
from transformers import AutoModelForCausalLM

from analysis.errors import ModelError, StorageError
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home" / "cache").glob("*"))


def test_what_is_read_is_what_was_written(tmp_path, windows):
    model = tiny_model("llama")
    source = write_gguf(tmp_path / "tiny.gguf", model)
    before = describe(source)
    opened = open_dense(source)
    assert torch.equal(opened.model(windows).logits, model(windows).logits)
    assert opened.tokenizer("ab c")["input_ids"] == [TOKENS.index(token) for token in ("ab", "Ġ", "c")]
    assert before == describe(source)
    assert before.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (before.label, before.blocks, before.tied, before.context) == ("tiny.gguf", 3, True, 128)
    assert before.not_sliceable is None


def test_what_lies_beside_the_file_changes_nothing(tmp_path, windows, monkeypatch):
    read, seen = AutoModelForCausalLM.from_pretrained, []

    def watched(where: Path, **options: Any) -> Any:
        if "gguf_file" in options:
            seen.append([each.name for each in Path(where).iterdir()])
        return read(where, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    model = tiny_model("llama")
    alone = open_dense(write_gguf(tmp_path / "tiny.gguf", model))
    (tmp_path / "other").mkdir()
    source = write_gguf(tmp_path / "other" / "model.gguf", model)
    strays = {
        "adapter_config.json": {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"},
        "config.json": {"model_type": "gpt2"},
        "generation_config.json": {"do_sample": True, "temperature": 7.0},
        "tokenizer_config.json": {"tokenizer_class": "Nothing", "chat_template": "stray"},
        "special_tokens_map.json": {"eos_token": "<9>"},
    }
    for name, stray in strays.items():
        (tmp_path / "other" / name).write_text(json.dumps(stray))
    assert describe(source).architecture == "llama"
    opened = open_dense(source)
    assert torch.equal(opened.model(windows).logits, model(windows).logits)
    assert opened.model.generation_config.to_dict() == alone.model.generation_config.to_dict()
    assert opened.tokenizer.chat_template is None
    assert opened.tokenizer.eos_token == alone.tokenizer.eos_token
    assert all(str(tmp_path) not in each.read_text() for each in (tmp_path / "home").rglob("*config.json"))
    assert len(cached(tmp_path)) == 2
    assert seen == [["tiny.gguf"], ["model.gguf"]]  # with peft installed, transformers looks for an adapter


def test_quantised_weights_come_near_what_they_stand_for(tmp_path, windows):
    model = tiny_model("llama", intermediate_size=64)
    source = write_gguf(tmp_path / "q8.gguf", model, quantisation=gguf.GGMLQuantizationType.Q8_0)
    opened = open_dense(source).model
    assert not hasattr(opened.config, "quantization_config")  # it is plain numbers now
    found, expected = opened(windows).logits, model(windows).logits
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.05


def test_file_is_converted_once_and_again_when_it_changes(tmp_path, monkeypatch, windows):
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, tiny_model("llama"))
    open_dense(source)
    assert len(cached(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", lambda *_: pytest.fail("read again"))
        open_dense(source)
    other = tiny_model("llama")
    other.model.norm.weight.mul_(2.0)
    write_gguf(path, other)
    os.utime(path, (1, 1))
    assert torch.equal(open_dense(source).model(windows).logits, other(windows).logits)


def test_the_head_is_read_once_and_the_table_of_names_made_once(tmp_path, monkeypatch):
    """transformers reads the head three times and makes the table for every module."""
    asked: list[str] = []
    reader, table = gguf.GGUFReader, gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: (asked.append("head"), reader(path))[1])
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *said: (asked.append("table"), table(*said))[1])
    model = tiny_model("llama")
    source = write_gguf(tmp_path / "tiny.gguf", model)
    asked.clear()
    open_dense(source)
    assert sorted(asked) == ["head", "table"]


def test_files_that_differ_in_the_middle_only_are_two_models(tmp_path, windows):
    model = tiny_model("llama", hidden_size=256, intermediate_size=1024)  # 10 MB
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        source = write_gguf(tmp_path / name / "model.gguf", model)
        assert torch.equal(open_dense(source).model(windows).logits, model(windows).logits)
        model.model.layers[1].self_attn.q_proj.weight.mul_(2.0)


@pytest.mark.parametrize("part", ["model.embed_tokens", "model.layers.1.mlp.up_proj"])
def test_weight_that_is_missing_is_not_made_up(tmp_path, part):
    source = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), without=part)
    with pytest.raises(ModelError, match=r"lacks \d+ of the weights"):
        open_dense(source)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("kept", [4, 10, 500, 0.5, 0.9999])
def test_file_cut_short_anywhere_is_refused(tmp_path, kept):
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, tiny_model("llama"))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    for reading in (describe, open_dense):
        with pytest.raises(ModelError, match=r"'tiny\.gguf' is damaged or cut short.*fetch it again"):
            reading(source)
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [({"architecture": "nonsense"}, "architecture nonsense is not supported"), ({"merge": "c d"}, "`cd`")],
)
def test_what_transformers_cannot_read_is_one_sentence(tmp_path, choice, sentence):
    source = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), **choice)
    with pytest.raises(ModelError, match=rf"'tiny\.gguf' cannot be read: .*{sentence}.*\.$"):
        open_dense(source)
    assert cached(tmp_path) == []


def test_file_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    source = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(StorageError, match=r"tiny\.gguf' cannot be read or written: there is no permission"):
        describe(source)


def damaged(tmp_path: Path, name: str, value: int) -> ModelSource:
    """The tiny llama with another number in its header."""
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, tiny_model("llama"))
    content = bytearray(path.read_bytes())
    at = content.index(name.encode()) + len(name)
    assert content[at : at + 4] == bytes([4, 0, 0, 0])  # an unsigned number of four bytes
    content[at + 4 : at + 8] = value.to_bytes(4, "little")
    path.write_bytes(content)
    return source


@pytest.mark.parametrize("name", ["block_count", "embedding_length", "vocab_size"])
@pytest.mark.parametrize("value", [0, 1, 2, 299, 301, 10**6, 2**31, 2**32 - 1])
def test_number_that_is_not_the_weights_is_refused_before_anything_is_built(
    tmp_path, monkeypatch, name, value
):
    source = damaged(tmp_path, f"llama.{name}", value)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("built"))
    for reading in (describe, open_dense):
        with pytest.raises(
            ModelError, match=rf"'tiny\.gguf' says llama\.{name} = {value}, but .*: fetch it again"
        ):
            reading(source)


@pytest.mark.parametrize("name", ["feed_forward_length", "attention.head_count", "attention.head_count_kv"])
@pytest.mark.parametrize("value", [2**31, 2**32 - 1])
def test_absurd_number_is_refused(tmp_path, name, value):
    with pytest.raises(ModelError, match=rf"says llama\.{name} = {value}, but that has to be"):
        describe(damaged(tmp_path, f"llama.{name}", value))


@pytest.mark.parametrize("value", [2**31, 2**40, 2**64 - 1])
@pytest.mark.parametrize("name", ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "counts"])
def test_counts_that_the_file_is_too_short_for_are_refused_at_once(tmp_path, name, value):
    path = tmp_path / "tiny.gguf"
    source = write_gguf(path, tiny_model("llama"))
    content = bytearray(path.read_bytes())
    at = 16 if name == "counts" else content.index(name.encode()) + len(name) + 8
    content[at : at + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged or cut short"):
        describe(source)


def test_pipe_of_that_name_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match=r"pipe\.gguf' is not a file"):
        describe(ModelSource.parse(str(tmp_path / "pipe.gguf")))

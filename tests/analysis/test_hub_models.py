"""Models on the Hub as the library opens them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from model_hub import ask, hub_of

from analysis.errors import SlicescopeError
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense


def said_of(name: str) -> str:
    """Parameters before and after the weights are here, and the model; or what is wrong."""
    try:
        source = ModelSource.parse(name)
        before, model = describe(source), open_dense(source).model
        count = sum(parameter.numel() for parameter in model.parameters())
        after, head = describe(source), "tied" if model.config.tie_word_embeddings else "own"
        return f"{before.parameters} {after.parameters} {count} {head} {type(model).__name__}"
    except SlicescopeError as error:
        return f"{type(error).__name__} {error}"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], list[str]]]:
    """What was said of each model, and everything the Hub was asked."""
    folder = tmp_path_factory.mktemp("hub")
    for place in ("owner/whole/main", "owner/whole/v1", "owner/pickled/main"):
        tiny_model("llama").save_pretrained(folder / place)
        byte_tokenizer().save_pretrained(folder / place)
    (folder / "owner/pickled/main/model.safetensors").unlink()
    tiny_model("llama", tie_word_embeddings=False).save_pretrained(folder / "owner/mistied/main")
    byte_tokenizer().save_pretrained(folder / "owner/mistied/main")
    config = folder / "owner/mistied/main/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    torch.save({}, folder / "owner/pickled/main/pytorch_model.bin")
    foreign = folder / "owner/foreign/main"
    foreign.mkdir(parents=True)
    (foreign / "own.py").write_text("raise SystemExit('executed')\n")
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (foreign / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    quantised = folder / "owner/quantised/main"
    shutil.copytree(folder / "owner/whole/main", quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    (folder / "owner/quantised/.card").write_text(json.dumps({"base_model": "owner/whole"}))

    names = ["whole", "whole@v1", "whole@v2", "mistied", "pickled", "foreign", "missing", "quantised"]
    with hub_of(folder) as hub, pytest.MonkeyPatch.context() as patch:
        ask(hub, tmp_path_factory.mktemp("cache"), patch)
        yield {name: said_of(f"owner/{name}") for name in names}, hub.asked


@pytest.mark.parametrize("name", ["whole", "whole@v1"])
def test_model_on_the_hub_is_described_and_opened(answers, name):
    parameters = sum(parameter.numel() for parameter in tiny_model("llama").parameters())
    assert answers[0][name] == f"{parameters} {parameters} {parameters} tied LlamaForCausalLM"


def test_head_of_its_own_is_noticed_once_the_weights_are_here(answers):
    tied, own = (
        sum(parameter.numel() for parameter in tiny_model("llama", tie_word_embeddings=each).parameters())
        for each in (True, False)
    )
    assert answers[0]["mistied"] == f"{tied} {own} {own} own LlamaForCausalLM"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("whole@v2", "has no revision 'v2': see http"),
        ("pickled", "has no safetensors weights on the Hub, and pickled ones (.bin, .pt) are never opened"),
        ("foreign", "cannot be fetched from the Hub ("),
        ("missing", "is not on the Hub, or is private: check its name, log in with 'hf auth login'"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(answers, name, sentence):
    said = answers[0][name]
    assert said.startswith(f"ModelError The model 'owner/{name}' {sentence}")
    assert said.endswith(".")


def test_a_quantised_model_is_refused_before_its_weights_are_fetched(answers):
    said = answers[0]["quantised"]
    assert "its weights are quantised (GPTQ, 4 bits), which cannot be read here (" in said
    assert said.endswith("): open 'owner/whole', from which it was made.")
    assert not [line for line in answers[1] if "quantised" in line and ".safetensors" in line]


def test_nothing_pickled_and_no_code_is_even_asked_for(answers):
    assert not [line for line in answers[1] if line.endswith((".bin", ".py"))]
    # transformers can ask a robot to convert pickled weights, which opens a pull request there.
    assert not [line for line in answers[1] if "discussions" in line or line.startswith("POST")]

"""What people have at hand is often nearly a model: each refusal says what it is, and what to do next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file

from analysis.errors import ModelError, SlicescopeError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense, require_plain_weights

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 269060552\n"
Change = Callable[[Path], Path | None]
"""Of a folder with a model; gives the folder to open where that is another one."""


def with_settings(folder: Path, **settings: object) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | settings))


def lfs_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text(POINTER)


def tokenizer_pointer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(POINTER)


def gguf_pointer(folder: Path) -> Path:
    (folder / "model.gguf").write_text(POINTER)
    return folder / "model.gguf"


def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def cut_off_in_its_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def cache_root(folder: Path) -> Path:
    root = folder.parent / "models--owner--name"
    for snapshot in ("aaaa", "bbbb"):
        shutil.copytree(folder, root / "snapshots" / snapshot)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("aaaa")
    return root


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def adapter_with_configuration(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))


def consolidated(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")


def consolidated_alone(folder: Path) -> None:
    consolidated(folder)
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def fewer_blocks_said(folder: Path) -> None:
    with_settings(folder, num_hidden_layers=2)


REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "Git LFS pointer": (lfs_pointer, (WEIGHTS, "is a pointer of Git LFS", "run 'git lfs pull'")),
    "pointer of a tokenizer": (tokenizer_pointer, ("tokenizer.json", "run 'git lfs pull'")),
    "pointer of a GGUF file": (gguf_pointer, ("model.gguf", "run 'git lfs pull'")),
    "cut-off weights": (cut_off, (WEIGHTS, "is cut short", "fetch it again")),
    "weights cut off in their header": (cut_off_in_its_header, (WEIGHTS, "cut short", "fetch it again")),
    "root of a Hub cache folder": (cache_root, ("cache of the Hub", "give '", "snapshots/aaaa'")),
    "LoRA folder": (adapter, ("adapter", "for 'owner/base'", "merge it")),
    "LoRA folder with a configuration": (adapter_with_configuration, ("for 'owner/base'", "merge it")),
    "consolidated weights": (consolidated, ("Mistral's own format", "fetch", "model-*.safetensors")),
    "consolidated weights alone": (consolidated_alone, ("Mistral's own format", "model-*.safetensors")),
    "no tokenizer": (no_tokenizer, ("copy tokenizer.json", "from the model that it was made from")),
    "more blocks than said": (fewer_blocks_said, ("of 3 blocks", "says 2", "correct the number")),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_nearly_a_model_is_refused_in_one_sentence(tiny_folder, change, said):
    given = change(tiny_folder) or tiny_folder
    with pytest.raises(SlicescopeError) as error:
        open_dense(ModelSource.parse(str(given)))
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".") and not sentence.endswith("..")
    assert all(part in sentence for part in said), sentence


QUANTISED = {
    "GPTQ": {"quant_method": "gptq", "bits": 4},
    "AWQ": {"quant_method": "awq", "bits": 4},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
}


@pytest.mark.parametrize(("name", "settings"), QUANTISED.items(), ids=list(QUANTISED))
def test_quantised_weights_are_refused_before_they_are_sliced(tiny_folder, name, settings):
    with_settings(tiny_folder, quantization_config=settings)
    with pytest.raises(SlicescopeError, match=rf"quantised \({name}.*need plain ones: open the model that"):
        require_plain_weights(ModelSource.parse(str(tiny_folder)))


def test_the_snapshot_that_is_named_opens(tiny_folder):
    root = cache_root(tiny_folder)
    assert open_dense(ModelSource.parse(str(root / "snapshots" / "aaaa"))).tokenizer is not None


def test_a_weight_that_is_no_number_is_named(windows):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    for work in (
        lambda: perplexity(model, windows),
        lambda: profile_blocks(model, windows, model_label="tiny", text_label="text"),
    ):
        with pytest.raises(ModelError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN"):
            work()


def test_finite_weights_are_not_blamed(windows):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    with pytest.raises(ModelError, match=r"The loss is not finite: open the model in bfloat16 or float32\."):
        perplexity(model, windows)


def test_other_faults_of_weights_are_told_by_their_reader(tiny_folder):
    weights = load_file(tiny_folder / WEIGHTS)
    save_file({**weights, "model.norm.weight": torch.zeros(3)}, tiny_folder / WEIGHTS)
    with pytest.raises(ModelError, match="cannot be read"):
        open_dense(ModelSource.parse(str(tiny_folder)))

"""Quantised models: what is told before they are opened, and those that become plain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

from analysis.errors import ModelError, UnsupportedError
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest
from slicing.studies.run import fetch_for, perform

METHODS: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}, "bitsandbytes, 4 bits"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
    ({"load_in_4bit": True}, "bitsandbytes, 4 bits"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits"),
    ({"quant_method": "awq", "bits": 4}, "AWQ, 4 bits"),
    ({"quant_method": "awq", "w_bit": 4}, "AWQ, 4 bits"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
    ({"quant_method": "hqq", "quant_config": {}}, "HQQ"),
    ({"quant_method": "aqlm"}, "AQLM"),
    ({"quant_method": "quanto", "weights": "int8"}, "Quanto"),
    ({"quant_method": "tomorrow"}, "tomorrow"),
    ({"quant_method": "[log in](https://evil.example)", "bits": 10**9}, "an unnamed method"),
    ({"quant_method": ["gptq"], "bits": True}, "an unnamed method"),
    ({}, "an unnamed method"),
]
BLOCK = 16


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def quantise(folder: Path) -> None:
    """Store the weights of the projections in FP8, with a scale for every block of 16 x 16."""
    stored: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            stored[name] = weight
            continue
        rows, columns = (side // BLOCK for side in weight.shape)
        blocks = weight.reshape(rows, BLOCK, columns, BLOCK)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        stored[name] = (blocks / scales).reshape(weight.shape).to(torch.float8_e4m3fn)
        stored[name.replace("weight", "weight_scale_inv")] = scales.reshape(rows, columns)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    change(folder, quantization_config=settings)


@pytest.mark.parametrize(("settings", "name"), METHODS)
def test_card_of_a_quantised_model_tells_the_truth(tiny_folder, settings, name):
    plain = describe(ModelSource.parse(str(tiny_folder)))
    assert (plain.quantised, plain.not_sliceable) == (None, None)
    change(tiny_folder, quantization_config=settings)
    card = describe(ModelSource.parse(str(tiny_folder)))
    assert card.quantised == name
    assert not card.becomes_plain
    assert card.not_sliceable == (
        f"The weights of this model are quantised ({name}), and slicing and removing blocks need plain ones: "
        "open the model that it was made from."
    )
    assert card.bytes == (tiny_folder / "model.safetensors").stat().st_size
    (tiny_folder / "README.md").write_text("---\nbase_model: owner/whole\n---\n# It\n")
    assert str(describe(ModelSource.parse(str(tiny_folder))).not_sliceable).endswith(
        "need plain ones: open 'owner/whole', from which it was made."
    )


@pytest.mark.parametrize(("settings", "name"), METHODS)
def test_quantised_model_that_cannot_be_read_here_is_one_sentence(tiny_folder, settings, name):
    change(tiny_folder, quantization_config=settings)
    with pytest.raises(ModelError, match=r"cannot be opened, since its weights are quantised \(.*\), which"):
        open_dense(ModelSource.parse(str(tiny_folder)))


def test_weights_in_fp8_become_plain_and_are_sliced(tiny_folder, windows, tmp_path):
    whole = tiny_model("llama")
    quantise(tiny_folder)
    for dtype in ("float32", "bfloat16"):
        source = ModelSource.parse(str(tiny_folder), dtype=dtype)
        card = describe(source)
        assert (card.quantised, card.becomes_plain, card.not_sliceable) == ("FP8", True, None)
        assert card.bytes == card.parameters * getattr(torch, dtype).itemsize
        model = open_dense(source).model
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
        assert not hasattr(model.config, "quantization_config")
        away = (model(windows).logits.float() - whole(windows).logits).norm() / whole(windows).logits.norm()
        assert away < 0.1
    text = tmp_path / "text.txt"
    text.write_text("The state of the Union is strong. " * 60)
    request = CompressRequest(
        model=ModelSource.parse(str(tiny_folder), dtype="float32"),
        recipe=Recipe.parse("slice(dynamic, rounding=1)"),
        calibration=TextSource.parse(str(text), "calibration"),
        calibration_windows=4,
        profile_windows=4,
        window_length=16,
    )
    result: Any = perform(request).result
    assert result.parameters > 0


@pytest.mark.parametrize(
    ("line", "budget"), [("slice(dynamic)", "mean_slice=0.25"), ("shortgpt", "blocks=1")]
)
def test_what_cannot_be_changed_is_refused_before_it_is_opened(tiny_folder, tmp_path, line, budget):
    change(tiny_folder, quantization_config={"quant_method": "gptq", "bits": 4})
    text = tmp_path / "text.txt"
    text.write_text("The state of the Union is strong. " * 60)
    common: dict[str, Any] = {
        "model": ModelSource.parse(str(tiny_folder)),
        "calibration": TextSource.parse(str(text), "calibration"),
        "calibration_windows": 4,
        "profile_windows": 4,
        "window_length": 16,
    }
    request = CompressRequest(**common, recipe=Recipe.parse(line), budget=Budget.parse(budget))
    refusal = r"quantised \(GPTQ, 4 bits\), and slicing and removing"
    for begin in (perform, fetch_for):
        with pytest.raises(UnsupportedError, match=refusal):
            begin(request)
    fetch_for(ProfileRequest(model=common["model"], text=common["calibration"], windows=4, window_length=16))


def test_weights_in_mxfp4_become_plain(tmp_path):
    model = tiny_model(
        "gpt_oss",
        num_local_experts=2,
        num_experts_per_tok=1,
        intermediate_size=32,
        layer_types=None,
        head_dim=8,
    )
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    stored: dict[str, torch.Tensor] = {}
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = weight
            continue
        experts, inner, outer = weight.shape
        shape = (experts, outer, inner // 32)
        stored[f"{name}_blocks"] = torch.full((*shape, 16), 0x32, dtype=torch.uint8)  # the codes of 1 and 1.5
        stored[f"{name}_scales"] = torch.full(shape, 126, dtype=torch.uint8)  # 2 ** -1
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change(tmp_path, quantization_config={"quant_method": "mxfp4"})
    source = ModelSource.parse(str(tmp_path), dtype="float32")
    card = describe(source)
    assert (card.quantised, card.becomes_plain) == ("MXFP4", True)
    opened = open_dense(source).model
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in opened.parameters()) == card.parameters
    weights = dict(opened.named_parameters())["model.layers.0.mlp.experts.down_proj"]
    assert sorted(weights.unique().tolist()) == [0.5, 0.75]

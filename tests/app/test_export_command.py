"""``slicescope export`` from a model that 'compress' keeps to what other tools open."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from decilm import of_folder

from analysis.sources.model import ModelSource
from app.cli import main
from slicing.store import open_model

TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``slicescope ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["slicescope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """The tiny model cut by FASP, with and without value coordinates."""
    (tmp_path / "text.txt").write_text(TEXT * 40)
    words = ["--model", tiny_folder, "--calibration", tmp_path / "text.txt", "--calibration-windows", 4]
    words += ["--window-length", 24, "--evaluation-windows", 0, "--budget", "parameters=0.2"]
    for line in ("fasp", "fasp(export=deci)"):
        assert run(monkeypatch, "compress", line, *words, "--out", tmp_path / line) == 0
    return {line: tmp_path / line for line in ("fasp", "fasp(export=deci)")}


def test_what_a_method_makes_for_export_is_written(monkeypatch, compressed, tmp_path, capsys):
    source, out = compressed["fasp(export=deci)"], tmp_path / "deci"
    capsys.readouterr()
    assert run(monkeypatch, "export", source, "--to", "deci", "--out", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "fasp(export=deci) as DeciLM folder" in printed
    assert "Opens in vLLM" in printed
    windows = torch.arange(10, 34).view(2, 12)
    model, _ = open_model(ModelSource.parse(str(source), device="cpu"))
    assert torch.allclose(of_folder(out, windows), model(windows).logits, atol=1e-4)
    options = ["--dtype", "bf16", "--multiple", 256]
    assert run(monkeypatch, "export", source, "--to", "deci", *options, "--out", tmp_path / "again") == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert all("ffn_mult" in each["ffn"] for each in config["block_configs"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--to", "deci"), 3, "make the model by a method with the setting 'export=deci'"),
        (("--to", "gguf"), 3, "make the model by a method with the setting 'export=gguf'"),
        (("--to", "hf"), 3, "make the model with 'uniform=true'"),
        (("--to", "hf", "--multiple", "8"), 5, "leave '--multiple' out"),
        (("--to", "mergekit"), 5, "name it with '--dense', or give the key of the run"),
        (("--to", "mergekit", "--dense", "DENSE"), 3, "this model is cut inside its blocks"),
        (("--to", "gguf", "--dtype", "bf16"), 5, "has no numbers of type 'bf16': choose from f16, f32, q8_0"),
        (("--to", "deci", "--dtype", "q8_0"), 5, "has no numbers of type 'q8_0'"),
        (("--to", "onnx"), 2, "is not one of 'hf', 'deci', 'gguf', 'mergekit'"),
        (("--to", "gguf", "--multiple", "0"), 2, "--multiple"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    words, code, said, monkeypatch, compressed, tiny_folder, tmp_path, capsys
):
    words = [str(tiny_folder) if word == "DENSE" else word for word in words]
    before = set(tmp_path.iterdir())
    capsys.readouterr()
    assert run(monkeypatch, "export", compressed["fasp"], *words, "--out", tmp_path / "new") == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert set(tmp_path.iterdir()) == before


def test_a_run_is_written_by_its_key_and_knows_what_it_was_made_from(
    monkeypatch, tiny_folder, tmp_path, capsys
):
    (tmp_path / "text.txt").write_text(TEXT * 40)
    words = ["--model", tiny_folder, "--calibration", tmp_path / "text.txt", "--calibration-windows", 4]
    words += ["--window-length", 24, "--evaluation-windows", 0, "--budget", "blocks=1"]
    words += ["--json", tmp_path / "told.json", "--out", tmp_path / "kept"]
    assert run(monkeypatch, "compress", "shortgpt", *words) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    key, left = told["key"], [place for (place,) in told["layout"]["groups"]]
    capsys.readouterr()
    assert run(monkeypatch, "export", key, "--to", "mergekit", "--out", tmp_path / "it.yaml") == 0
    assert f"tiny, run {key} as mergekit configuration" in " ".join(capsys.readouterr().out.split())
    slices = yaml.safe_load((tmp_path / "it.yaml").read_text())["slices"]
    ranges = [(each["sources"][0]["model"], *each["sources"][0]["layer_range"]) for each in slices]
    assert [place for _, first, end in ranges for place in range(first, end)] == left
    assert {name for name, _, _ in ranges} == {str(tiny_folder)}
    assert run(monkeypatch, "export", key[:6], "--to", "hf", "--out", tmp_path / "hf") == 0
    windows = torch.arange(10, 34).view(2, 12)
    found = [
        open_model(ModelSource.parse(str(tmp_path / name), device="cpu")).model(windows).logits
        for name in ("hf", "kept")
    ]
    assert torch.equal(*found)
    assert run(monkeypatch, "export", "0123abcd", "--to", "hf", "--out", tmp_path / "no") == 6
    assert "The key '0123abcd' fits no run" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("form", ["hf", "deci", "gguf", "mergekit"])
def test_what_is_there_is_refused_before_the_model_is_opened(
    form, monkeypatch, tiny_folder, tmp_path, capsys
):
    (tmp_path / "there").write_text("mine")
    (tiny_folder / "model.safetensors").unlink()
    assert run(monkeypatch, "export", tiny_folder, "--to", form, "--out", tmp_path / "there") == 6
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "there").read_text() == "mine"

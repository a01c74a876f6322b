"""The command shrink: from a wish to a folder with the model, its card and its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM

from app.cli import main
from slicing.steps import STEPS

TEXT = "A whole is what has a beginning and middle and end; a window has at least the middle of one. "
FLAGS = (
    "--model tiny --calibration a.txt --calibration-windows 4 --window-length 24 --preview-windows 3 "
    "--evaluation b.txt --evaluation-windows 8 --other= --speed-rounds 0 --minutes 600"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "slicing.studies.candidates.STEPS", {name: STEPS[name] for name in ("shortgpt", "fasp")}
    )
    tiny_model("llama", num_hidden_layers=4).save_pretrained("tiny")
    byte_tokenizer().save_pretrained("tiny")
    for name, text in (("a", TEXT), ("b", TEXT[::-1])):
        Path(f"{name}.txt").write_text(text * 30)
    return tmp_path


def slicescope(words: str) -> Any:
    sys.argv = ["slicescope", *words.split()]
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_a_wish_becomes_a_folder_and_is_known_the_next_time(folder, capsys):
    assert slicescope(f"shrink {FLAGS} --fewer 30% --opens everywhere --quality ppl<=99x --out small") == 0
    told = capsys.readouterr()
    assert "Known already" not in told.err
    assert told.out.startswith("Take “")
    assert "Every tool opens it" in told.out
    assert "within the 99 times" in told.out.replace("\n", " ")
    small = folder / "small"
    assert {"README.md", "config.json", "model.safetensors", "report.html"} <= {
        path.name for path in small.iterdir()
    }
    assert "Perplexity" in (small / "README.md").read_text()
    assert "What was tried" in (small / "report.html").read_text()
    dense = AutoModelForCausalLM.from_pretrained("tiny").num_parameters()
    assert AutoModelForCausalLM.from_pretrained(small).num_parameters() < 0.75 * dense

    assert slicescope(f"shrink {FLAGS} --fewer 30% --opens everywhere --out small") == 6
    assert slicescope(f"shrink {FLAGS} --fewer 99% --out other") == 5
    told = capsys.readouterr()
    assert "choose a share from" in told.err.replace("\n", " ")
    assert not (folder / "other").exists()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.cli.shrinking.carry_out", stop)
        assert slicescope(f"shrink {FLAGS} --fewer 30% --out other") == 130
    told = capsys.readouterr().err
    assert "Known already of sizes near 30\N{NO-BREAK SPACE}% fewer parameters, best first:" in told
    assert "perplexity" in told and "shortgpt" in told
    (line,) = (line.strip() for line in told.splitlines() if "slicescope compress" in line)
    assert line.startswith("slicescope compress ") and "--out" in line
    again = line.removeprefix("slicescope ").replace("smaller-model", "made-again").replace("'", "")
    assert slicescope(again) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(asked 30 %, nearest" in said and "made in" in said
    assert (folder / "made-again" / "config.json").is_file()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ("", "A wish names one size, but got no size"),
        ("--fewer 20% --memory 5GB", "got fewer and memory"),
        ("--fewer 20", "such as 20% or 0.2; got '20'"),
        ("--memory 5", "a number with its unit"),
        ("--fewer 20% --quality good", "such as 'ppl<=1.3x'; got 'good'"),
        ("--fewer 20% --minutes 0", "The minutes must be above 0"),
    ],
)
def test_a_bad_wish_is_refused_in_one_sentence(folder, capsys, flags, what):
    assert slicescope(f"shrink {FLAGS.replace('--minutes 600', '')} {flags} --out small") == 5
    assert what in capsys.readouterr().err.replace("\n", " ")

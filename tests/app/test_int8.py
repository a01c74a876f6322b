"""What models are worth in int8: on the command line, in studies, their tables, reports and files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model

from analysis.errors import StorageError
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from app.cli import main
from app.repeat import study_file
from app.report import sections
from app.tables import ranking_table
from slicing.studies.files import parse_study
from slicing.studies.run import perform
from slicing.studies.store import parse_run
from slicing.studies.study import leaderboard, recipes
from slicing.studies.verdicts import read_board

TEXT = "Whoever has eight bits for a weight asks what the other eight were there for. "


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, TextSource]:
    found = {}
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (tmp_path / f"{name}.txt").write_text(text * 30)
        found[name] = TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["slicescope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_evaluate_tells_both_forms(monkeypatch, tiny_folder, texts, tmp_path, capsys):
    where = ["--model", tiny_folder, "--evaluation", texts["evaluation"].location]
    where += ["--evaluation-windows", 8, "--window-length", 24]
    path = tmp_path / "found.json"
    assert run(monkeypatch, "evaluate", *where, "--int8", "--json", path) == 0
    found = json.loads(path.read_text())
    assert 0.25 < found["int8"]["bytes"] / found["bytes"] < 0.35
    assert 0 < abs(found["int8"]["evaluation"]["perplexity"] / found["perplexity"] - 1) < 0.01
    assert run(monkeypatch, "evaluate", *where, "--int8") == 0
    assert "in int8, " in capsys.readouterr().out
    assert run(monkeypatch, "evaluate", *where, "--json", path) == 0
    assert "int8" not in json.loads(path.read_text())
    assert run(monkeypatch, "evaluate", *where, "--int8", "--tasks", "piqa") != 0
    assert "leave out --int8" in capsys.readouterr().err


def test_a_study_has_both_forms_of_every_model(texts):
    asked: dict[str, Any] = {
        **texts,
        "model": ModelSource(kind="hub", location="slicescope/tiny"),
        "calibration_windows": 4,
        "profile_windows": 2,
        "window_length": 24,
        "evaluation_windows": 9,
    }
    study = leaderboard(recipes("slice(constant)", "shortgpt"), (0.2,), **asked, int8=True)
    assert study.key != leaderboard(recipes("slice(constant)", "shortgpt"), (0.2,), **asked).key
    assert parse_study(study_file(study), "it") == study

    made = perform(study, opener=lambda _: OpenModel(tiny_model("llama"), byte_tokenizer()))
    result: Any = made.result
    for each in result.measurements:
        assert each.int8.bytes < each.bytes / 2
        assert each.int8.evaluation.nll != each.evaluation.nll
    board = read_board(study, result)
    table = ranking_table(board.tables[0], result.shape)
    assert list(table["MB in int8"] < table["MB"] / 2) == [True] * 3
    assert table["perplexity in int8"].notna().all()
    titles = [each.title for each in sections(made)]
    assert "In 8 bits" in titles

    told = json.loads(made.to_json())
    told["result"]["measurements"][1]["int8"] = None
    with pytest.raises(StorageError, match="int8: it belongs to a request that asks for it"):
        parse_run(json.dumps(told).encode(), "it", None)

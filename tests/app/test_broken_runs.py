"""Stored runs that are damaged, edited by hand, or of a later version: a row each, and no broken page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from idle_app import Idle, page, said

from analysis.errors import StorageError
from analysis.storage import runs_folder
from app import state
from app.policy import Policy
from app.report import build_report
from slicing.library import bring_in, trashed
from slicing.studies import store
from slicing.studies.store import BUNDLED_RUN, bundled_run, bundled_sweep, find_run

BROKEN: dict[str, Callable[[dict[str, Any]], str]] = {
    "truncated": lambda plain: json.dumps(plain)[:500],
    "no zone": lambda plain: json.dumps({**plain, "created": "2026-11-23T11:40:18"}),
    "later": lambda plain: json.dumps({**plain, "format": 3}),
    "nobody": lambda plain: json.dumps({**plain, "result": {**plain["result"], "measurements": []}}),
    "no json": lambda _: "\x00" * 100,
}


@pytest.fixture(autouse=True)
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy(roots=(Path("/nowhere"),)))
    monkeypatch.setattr(state, "worker", Idle)


@pytest.fixture
def good() -> Iterator[str]:
    """A good run among the broken ones."""
    key = bring_in(bundled_sweep().to_json().encode(), "it").key
    for name, spoil in BROKEN.items():
        (runs_folder() / name).mkdir()
        spoiled = spoil(json.loads(bundled_run().to_json()))
        (runs_folder() / name / store.RUN_FILE).write_text(spoiled)
    (runs_folder() / "empty").mkdir()
    yield key


NAMES = sorted([*BROKEN, "empty"])


def test_each_is_one_row_that_says_so(good: str) -> None:
    app = page("runs")
    (table,) = app.dataframe
    assert list(table.value["key"]) == [good, *NAMES]
    assert list(table.value["kind"]) == ["study", *["cannot be read"] * len(NAMES)]
    problems = list(table.value["name"])[1:]
    assert all(f"{name}/run.json" in problem for name, problem in zip(NAMES, problems, strict=True))
    assert not [problem for problem in problems if "delete" in problem or "\n" in problem]
    assert "Open the study" in [button.label for button in app.button]


def test_it_can_be_deleted_by_who_wishes_to(good: str) -> None:
    for name in (good, *NAMES[1:]):
        shutil.rmtree(runs_folder() / name)
    app = page("runs")
    assert list(app.dataframe[0].value["key"]) == NAMES[:1]
    assert "cannot be read" in app.warning[0].value or "not a readable Run" in app.warning[0].value
    next(button for button in app.button if button.label == "Delete").click().run()
    assert not app.exception
    assert len(trashed()) == 1
    next(button for button in app.button if button.label == "Undo").click().run()
    assert list(app.dataframe[0].value["key"]) == NAMES[:1]


def test_strangers_are_told_nothing_of_it(good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy.demo())
    app = page("runs")
    assert not app.dataframe
    assert not [each for each in app.warning if str(runs_folder()) in each.value]


@pytest.mark.parametrize("name", ["profile", "compare", "tune", "study", "notes"])
def test_the_other_pages_survive(good: str, name: str) -> None:
    view = {"tune": "profile", "notes": "compare"}.get(name, name)
    app = page(name, **{view: "no zone"})
    told = [each.value for each in app.warning if "cannot be read" in each.value]
    assert told == ["The run 'no zone' cannot be read, so the demo's is shown."]


def test_a_profile_is_laid_over_those_that_can_be_read(good: str) -> None:
    app = page("profile", near="Beside other runs")
    assert [each.key for each in app.get("plotly_chart")] == ["profile", "overlay"]


def test_damaged_details_are_told_where_they_are_looked_at(good: str) -> None:
    run = bring_in((BUNDLED_RUN / store.RUN_FILE).read_bytes(), "it")
    (runs_folder() / run.key / store.DETAILS_FILE).write_bytes(b"no tensors")
    app = page("profile", profile=run.key)
    assert "The details" in app.warning[-1].value
    for name in ("notes", "talk"):
        page(name, compare=run.key)
    assert "LR score of every block" in build_report(run)


def test_the_command_line_lists_shows_and_deletes_it(
    good: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code, out, err = said(monkeypatch, capsys, "runs")
    assert code == 0 and good in out
    assert [line.strip().split("  ")[0] for line in out.splitlines() if "cannot be read" in line] == NAMES
    assert err.count("run.json") == len(NAMES)
    _, out, _ = said(monkeypatch, capsys, "runs", "list", "--json", "-")
    assert [each["key"] for each in json.loads(out)["broken"]] == NAMES
    for words in (["runs", "show"], ["cite"]):
        code, _, err = said(monkeypatch, capsys, *words, "nobody")
        assert code == StorageError.exit_code
        assert "result.measurements: got 0" in " ".join(err.split())
    assert said(monkeypatch, capsys, "runs", "delete", "nobody")[0] == 0
    assert find_run(good).key == good

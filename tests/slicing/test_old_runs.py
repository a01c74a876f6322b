"""Runs of the nine kinds of recipes that came before requests are listed, shown, moved and gone on with."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model

from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from slicing.library import bring_in, pack
from slicing.plans import Plan, Slicing
from slicing.studies.recipe import Recipe
from slicing.studies.results import Run
from slicing.studies.run import Trials, perform
from slicing.studies.store import find_run, find_stored, list_runs, summaries
from slicing.studies.study import Study, comparison, contest, leaderboard, recipes, sweep
from slicing.studies.verdicts import read_board, read_comparison, read_map

PACKED = Path(__file__).parents[1] / "data" / "runs-nine-kinds.tar.gz"
"""One of every kind and more, made by commit bd1a211 with ``bench.perform`` on ``tiny_model("llama")``, and
for the leaderboard on one of six blocks."""
KEYS = {
    "profile": "ec5b531d4e0b",
    "slice": "e4f8fd1f5d02",
    "slice, preview": "69639d148674",
    "remove": "7baecbca345b",
    "compare": "13e435c12f9f",
    "compare, base at target": "878540600bde",
    "compare, constant": "02d45b6f84eb",
    "compare, constant with span": "7af8f91bb138",
    "search": "1af443d8dee9",
    "trial": "348fe7dd2b39",
    "trial, removal": "553f4885911d",
    "sweep": "b665ccc31a19",
    "contest": "78b2fb36faa1",
    "contest, equal slice": "5b0539a3166c",
    "leaderboard": "ffec10faab15",
}
"""The names of those that were asked for; the others are their trials and searches."""
KINDS = {
    "slice": "compress",
    "remove": "compress",
    "profile": "profile",
    "search": "search",
    "trial": "trial",
}
"""What recipes of the old kinds are now; the others are studies."""
TINY, SIX = (ModelSource(kind="hub", location=f"slicescope/{name}") for name in ("tiny", "six"))
CALIBRATION, EVALUATION, OTHER = (
    TextSource(kind="demo", split=split, max_documents=1)
    for split in ("calibration", "evaluation", "out-of-style")
)
JUDGED: dict[str, Any] = {
    "model": TINY,
    "calibration": CALIBRATION,
    "calibration_windows": 4,
    "profile_windows": 2,
    "window_length": 24,
    "evaluation": EVALUATION,
    "evaluation_windows": 9,
}
FORM = Slicing(rounding=1)


def lines(*written: str, windows: int | None = None) -> tuple[Recipe, ...]:
    return tuple(each.in_form(FORM, None, windows) for each in recipes(*written))


ENTRIES = lines(
    "slice(dynamic, base=0)",
    "slice(random, draw=1)",
    "slice(searched, draw=1)",
    "slice(constant)",
    "slice(constant, blocks_per_basis=3, repair=writers)",
    "slice(rising)",
)
"""Of the old contest, in their order."""
SIZED = lines(
    "sleb",
    "random-blocks(draw=1)",
    "sleb(repair=linear)",
    "slice(dynamic, base=0)",
    "slice(constant)",
    "llm-streamline(share=0.5) | slice(constant, blocks_per_basis=2, repair=writers)",
    windows=2,
)
"""Of the old leaderboard."""


def first(entries: tuple[Recipe, ...], place: int) -> tuple[Recipe, ...]:
    """The entries with their baseline in front."""
    return (entries[place], *entries[:place], *entries[place + 1 :])


def asked() -> dict[str, Study]:
    """The studies as they are asked for today."""

    def plan(**fields: Any) -> Plan:
        return Plan(rounding=1, **fields)

    quiet = {"new_tokens": 0, "speed_rounds": 0}
    alike = plan(target=0.25, allocation="constant")
    return {
        "compare": comparison(
            plan(target=0.3, settings={"base": 0.05}), **JUDGED, new_tokens=2, speed_rounds=1
        ),
        "compare, base at target": comparison(plan(target=0.25, settings={"base": 0.25}), **JUDGED, **quiet),
        "compare, constant": comparison(alike, **JUDGED, **quiet),
        "compare, constant with span": comparison(
            alike.model_copy(update={"blocks_per_basis": 2}), **JUDGED, **quiet
        ),
        "sweep": sweep(plan(), (0.0, 0.2), (0.15, 0.3), **JUDGED),
        "contest": contest(first(ENTRIES, 3), 0.3, seeds=(1, 2), **JUDGED, other=OTHER),
        "contest, equal slice": contest(
            lines("slice(constant)", "slice(rising)"), 0.3, equal="slice", seeds=(2,), **JUDGED
        ),
        "leaderboard": leaderboard(first(SIZED, 4), (0.3, 0.45), **{**JUDGED, "model": SIX}, other=OTHER),
    }


@pytest.fixture
def old() -> Path:
    runs_folder().parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(PACKED) as archive:
        archive.extractall(runs_folder().parent, filter="data")
    return runs_folder()


def written(key: str) -> dict[str, Any]:
    """What the old code wrote of a run."""
    return json.loads((runs_folder() / key / "run.json").read_text())


def losses(measured: Any) -> list[list[float]]:
    return [
        list(each["evaluation"]["nll"] if isinstance(each, dict) else each.evaluation.nll)
        for each in measured
    ]


def study_run(name: str) -> Any:
    return find_run(KEYS[name])


def test_all_are_listed_and_opened_under_their_keys(old):
    listed, broken = summaries()
    assert broken == list_runs()[1] == []
    assert {each.name for each in listed} == {path.name for path in old.iterdir() if path.name[0] != "."}
    for name, key in KEYS.items():
        before, run = written(key), find_run(key)
        assert run.key == find_run(key[:6]).key == key
        assert run.request.kind == run.result.kind == KINDS.get(name.partition(",")[0], "study")
        assert run.request.kind == next(each.kind for each in listed if each.name == key)
        assert run.request.model.location == before["recipe"]["model"]["location"]
        assert run.seconds == before["seconds"]
        assert Run.from_json(run.to_json(), "it") == run


def test_all_are_found_by_their_requests(old):
    for run in list_runs()[0]:
        found = find_stored(run.request)
        assert found is not None
        assert found.key == run.key
        assert find_run(run.request.key).key == run.key


def test_all_travel_under_their_keys(old, monkeypatch, tmp_path):
    packed = {key: (pack(key), find_run(key), (old / key / "run.json").read_bytes()) for key in KEYS.values()}
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    for key, (content, before, _) in packed.items():
        assert bring_in(content, "it") == before == find_run(key)
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "plain"))
    for key, (_, before, plain) in packed.items():
        if isinstance(json.loads(plain)["result"]["profile"], dict):
            assert bring_in(plain, "it") == before == find_run(key)


@pytest.mark.parametrize("name", [name for name in KEYS if name.startswith("compare")])
def test_comparisons_show_what_they_showed(name, old):
    run, before = study_run(name), written(KEYS[name])["result"]["contestants"]
    found = read_comparison(run.request, run.result).measured
    assert list(found) == [each["name"] for each in before]
    assert losses(found.values()) == losses(before)
    assert [each.parameters for each in found.values()] == [each["parameters"] for each in before]
    titles = [each["title"].removesuffix(" (SliceGPT)") for each in before]
    assert [each.title for each in found.values()] == titles


def test_measurements_are_those_of_their_recipes(old):
    for name, entries, budgets, seeds in (
        ("contest", ENTRIES, ("like_constant=0.3",), (1, 2)),
        ("leaderboard", SIZED, ("parameters=0.3", "parameters=0.45"), (0,)),
        ("contest, equal slice", lines("slice(rising)", "slice(constant)"), ("mean_slice=0.3",), (2,)),
    ):
        run, before = study_run(name), written(KEYS[name])["result"]["contestants"]
        order = [
            (budget, seed, entry.line)
            for budget in budgets
            for seed in seeds
            for entry in entries
            if seed == seeds[0] or not entry.control
        ]
        known = dict(zip([("dense",), *order], losses(before), strict=True))
        trials = run.request.trials()
        assert len(trials) == len(known) == len(run.result.measurements)
        for trial, measured in zip(trials, run.result.measurements, strict=True):
            place = (trial.budget.line, trial.seed, trial.recipe.line) if trial.budget else ("dense",)
            assert list(measured.evaluation.nll) == known[place]
        assert run.request.baseline.line == "slice(constant, rounding=1)"


def test_a_sweep_is_the_map_that_it_was(old):
    run, before = study_run("sweep"), written(KEYS["sweep"])["result"]["contestants"]
    assert losses(run.result.measurements) == losses(before)
    found = read_map(read_board(run.request, run.result))
    assert found is not None
    assert found.bases == (0.0, 0.2)
    cells = [(each.base, each.budget.amount, each.constant) for each in found.cells]
    assert cells == [(0.0, 0.15, False), (0.2, 0.15, True), (0.0, 0.3, False), (0.2, 0.3, False)]
    # Dense, then constant slicing and the cells, target by target.
    assert [list(each.standing.runs[0].evaluation.nll) for each in found.cells if each.standing] == losses(
        [before[place] for place in (2, 4, 5)]
    )


@pytest.mark.parametrize("name", ["sweep", "contest", "contest, equal slice", "leaderboard"])
def test_boards_are_those_of_the_stored_trials(name, old):
    run = study_run(name)
    board = read_board(run.request)
    assert board == read_board(run.request, run.result)
    assert board.done == board.total == len(written(KEYS[name])["result"]["contestants"])


@pytest.mark.parametrize("name", asked())
def test_a_study_that_is_asked_for_anew_is_the_old_one_and_runs_no_trial_again(name, old, monkeypatch):
    study, stored = asked()[name], study_run(name)
    assert study == stored.request
    assert study.key == stored.request.key
    if name.startswith("compare"):  # their trials were no runs of their own
        return
    monkeypatch.setattr(Trials, "make", lambda *_: pytest.fail("a trial was run again"))
    blocks = 6 if study.model == SIX else 3
    opened = OpenModel(tiny_model("llama", num_hidden_layers=blocks), byte_tokenizer())
    again = perform(study, opener=lambda _: opened)
    assert again.key == KEYS[name]
    assert losses(again.result.measurements) == losses(stored.result.measurements)  # type: ignore[union-attr]

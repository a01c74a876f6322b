"""Numbers with units, verdicts in sentences, and commands that mean the recipe they were made from."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest
from slicing.runs import CompareRecipe, ProfileRecipe, TextUsed
from typer.testing import CliRunner

from analysis.evaluate import Difference
from analysis.source import ModelSource
from analysis.speed import Ratio
from analysis.texts import PRESETS, Passage, Role, TextSource
from app import wording
from app.cli import app as command_line
from app.tables import size_table
from slicing.plan import Plan
from slicing.repair import Repair, SublayerRepair
from slicing.study.store import bundled_run

DEMO = TextSource(kind="demo", split="calibration")
EVALUATION = TextSource(kind="demo", split="evaluation")


def test_numbers_carry_their_units() -> None:
    assert wording.percent(0.25) == "25.0\N{NO-BREAK SPACE}%"
    assert wording.percent(-0.111, signed=True) == "−11.1\N{NO-BREAK SPACE}%"
    assert wording.memory(2**30 * 3 // 2) == "1.50\N{NO-BREAK SPACE}GiB"
    assert wording.memory(2**29) == "512\N{NO-BREAK SPACE}MiB"
    assert wording.millions(134_515_008) == "134.5 M"
    assert wording.millions(8_030_000_000) == "8.03 B"
    assert wording.flops(269_000_000) == "269 MFLOPs"
    assert [wording.duration(s) for s in (5, 300, 7200)] == ["5 s", "5 min", "2.0 h"]


@pytest.mark.parametrize(
    ("documents", "reading"),
    [
        ([1] * 8 + [2] * 8, "16 windows from 2 documents: windows of one document resemble each other, so"),
        ([1], "1 window from 1 document, by what"),
        ([1] * 3, "3 windows from 1 document: windows of one"),
        ([1, 2, 3], "3 windows from 3 documents, by what stands in the middle of each."),
        ([], "was not stored with this run."),
    ],
)
def test_from_how_many_documents_windows_are_is_said(documents: list[int], reading: str) -> None:
    where = tuple(Passage(document=f"document {number}", begins="") for number in documents)
    used = TextUsed(label="", windows=len(where) or 4, window_length=8, digest="", passages=where)
    assert reading in wording.window_reading(used)


@pytest.mark.parametrize("role", ["calibration", "evaluation"])
@pytest.mark.parametrize(
    "text",
    [
        "demo",
        "demo:out-of-style",
        *PRESETS,
        "wikitext2:validation",
        "o/n",
        "o/n:train[:10%]",
        "o/n/c@r:test",
        "emozilla/pg19:test",
        "allenai/c4:validation",
        "Salesforce/wikitext/wikitext-2-raw-v1@abc:test",
    ],
)
def test_a_text_is_written_as_it_is_read(text: str, role: Role) -> None:
    source = TextSource.parse(text, role)
    assert TextSource.parse(wording.text_argument(source, role), role) == source


def test_a_command_gives_the_recipe_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [
        ProfileRecipe(model=ModelSource(kind="demo"), text=DEMO, windows=3, seed=4),
        ProfileRecipe(model=ModelSource(kind="demo"), text=DEMO, windows=3, drawn=16),
        ProfileRecipe(model=ModelSource(kind="demo"), text=DEMO, windows=3, drawn=5),
        ProfileRecipe(model=ModelSource(kind="demo"), text=DEMO, windows=16),
        ProfileRecipe(model=ModelSource(kind="demo"), text=DEMO, windows=64),
        CompareRecipe(model=ModelSource(kind="demo"), calibration=DEMO, evaluation=EVALUATION),
        CompareRecipe(
            model=ModelSource(kind="hub", location="a/b", revision="r", device="cpu", dtype="float32"),
            plan=Plan(
                target=0.3,
                settings={"base": 0.05},
                score="angular",
                first_token=True,
                max_fraction=0.6,
                rounding=64,
                embedding="untied",
            ),
            calibration=TextSource.parse("wikitext2", "calibration"),
            calibration_windows=4,
            profile_windows=2,
            evaluation=TextSource.parse("demo:out-of-style", "evaluation"),
            evaluation_windows=9,
            window_length=128,
            seed=7,
            prompt="It's a test",
            new_tokens=0,
        ),
        CompareRecipe(
            model=ModelSource(kind="demo"),
            plan=Plan(allocation="constant", settings={}),
            calibration=DEMO,
            evaluation=EVALUATION,
        ),
    ]
    performed: list[object] = []

    def stop(recipe: object) -> None:
        performed.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli._perform", stop)
    for recipe in recipes:
        CliRunner().invoke(command_line, shlex.split(wording.command(recipe))[1:])
    assert performed == recipes


@pytest.mark.parametrize(
    ("slices", "parameters", "words"),
    [
        (-0.15, -0.2, "Dynamic slicing predicts :green[better] than constant slicing: −"),
        (0.15, 0.2, "predicts :orange[worse]"),
        (0.0, 0.0, "no clear difference to constant slicing"),
        (-0.15, 0.0, "at equal mean slice (−"),
        (None, None, "Too few windows to tell"),
    ],
)
def test_the_verdict_is_one_sentence(slices: float | None, parameters: float | None, words: str) -> None:
    result: Any = bundled_run().result
    planned = result.contestant("dynamic").evaluation
    nll = np.asarray(planned.nll) if slices is not None else np.asarray(planned.nll)[:7]
    noise = np.resize([0.01, -0.01], nll.size)
    shifts = {"constant": slices or 0.0, "constant-matched": parameters or 0.0}
    moved = tuple(
        each.model_copy(
            update={
                "evaluation": each.evaluation.model_copy(
                    update={"nll": tuple(nll - shifts[each.name] + noise if each.name in shifts else nll)}
                )
            }
        )
        for each in result.contestants
    )
    sentence = wording.verdict(result.model_copy(update={"contestants": moved}), "dynamic")
    assert words in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")


def test_equal_words_about_a_profile_mean_equal_windows() -> None:
    shared: dict[str, Any] = {"model": ModelSource(kind="demo"), "window_length": 64}
    compared = CompareRecipe(**shared, calibration=DEMO, evaluation=EVALUATION)
    told = wording.profiled(compared)
    assert told == "the first 8 of 16 windows of 64 tokens, drawn with seed 0"
    assert wording.profiled(ProfileRecipe(**shared, text=DEMO, drawn=16)) == told
    assert wording.profiled(ProfileRecipe(**shared, text=DEMO)) == "8 windows of 64 tokens, drawn with seed 0"


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(1.0, 1.2, "1.10× (1.00 to 1.20)"), (1.0, 1.21, "too noisy to tell"), (0.9, 2.78, "too noisy to tell")],
)
def test_a_speed_is_told_where_the_rounds_agree_within_a_fifth(low: float, high: float, told: str) -> None:
    result: Any = bundled_run().result
    timed = result.contestant("dynamic").speed
    timed = timed.model_copy(update={"prompt": Ratio(median=1.1, low=low, high=high)})
    assert wording.times(timed, "prompt") == told
    few = timed.model_copy(update={"rounds": 4})
    assert wording.times(few, "prompt") == "too few rounds to tell"
    assert wording.times(None, "prompt") == ""


def test_the_run_that_ships_shows_no_speed_but_paired_ratios() -> None:
    result: Any = bundled_run().result
    table = size_table(result)
    assert not {"tokens/s", "slicing"} & set(table.columns)
    assert set(table["generation"]) >= {"", "too noisy to tell"}
    timed = result.contestant("dynamic").speed
    assert "94 % of cases" in wording.speed(timed) and "5 rounds" in wording.speed(timed)


def test_evidence_names_interval_nats_and_windows() -> None:
    each = Difference(
        baseline="constant",
        contender="dynamic",
        nats=-0.1,
        nats_interval=(-0.2, -0.05),
        windows=9,
        p_value=0.01,
    )
    assert wording.evidence(each) == (
        "−9.5 % perplexity · 95 % interval −18.1 to −4.9 % · −0.100 nats per token · 9 windows, paired"
    )
    among = each.model_copy(update={"comparisons": 4})
    assert wording.evidence(among).endswith(" · 9 windows, paired · verdict corrected for 4 comparisons")


def test_repair_is_told_with_what_it_gained_and_whether_it_was_kept():
    repair = Repair(
        sublayers=(
            SublayerRepair(ridge=None, before=0.1, after=0.1),
            SublayerRepair(ridge=0.3, before=0.2, after=0.1),
        ),
        windows=2,
        unrepaired=4.0,
        repaired=3.5,
    )
    result: Any = bundled_run().result
    constant = result.contestant("constant")
    assert wording.repaired(constant) is None
    told = wording.repaired(constant.model_copy(update={"repair": repair}))
    assert told is not None
    assert "from 4.000 to 3.500 nats per token on held-out windows: it was kept; 1 of its 2 fits" in told
    worse = repair.model_copy(update={"repaired": 4.5})
    assert "it was not kept" in str(wording.repaired(constant.model_copy(update={"repair": worse})))


def test_who_opens_a_kept_model_depends_on_its_matrices():
    assert "so do other tools" in wording.kept_model(plain=True)
    bridged = wording.kept_model(plain=False)
    assert "transformers 5.23 or later" in bridged
    assert "other tools do not open it" in bridged

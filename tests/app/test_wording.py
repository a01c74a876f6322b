"""Numbers with units, verdicts in sentences, and commands that mean the recipe they were made from."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.evaluate import Difference
from analysis.source import ModelSource
from analysis.texts import PRESETS, Role, TextSource
from app import wording
from app.cli import app as command_line
from slicing.plan import Plan
from slicing.repair import Repair, SublayerRepair
from slicing.runs import CompareRecipe, ProfileRecipe, bundled_run

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
        ((-0.2, -0.1), (-0.3, -0.1), "Dynamic slicing predicts :green[better] than constant slicing: −"),
        ((0.1, 0.2), (0.1, 0.3), "predicts :orange[worse]"),
        ((-0.1, 0.1), (-0.1, 0.1), "no clear difference to constant slicing"),
        ((-0.2, -0.1), (-0.1, 0.1), "at equal mean slice (−"),
        (None, None, "Too few windows to tell"),
    ],
)
def test_the_verdict_is_one_sentence(
    slices: tuple[float, float] | None, parameters: tuple[float, float] | None, words: str
) -> None:
    result = bundled_run().result
    differences = tuple(
        Difference(
            baseline=baseline,
            contender="dynamic",
            nats=sum(interval) / 2 if interval else -0.1,
            nats_interval=interval,
            windows=16,
        )
        for baseline, interval in (("constant", slices), ("constant-matched", parameters))
    )
    sentence = wording.verdict(result.model_copy(update={"differences": differences}), "dynamic")  # type: ignore[arg-type]
    assert words in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")


def test_evidence_names_interval_nats_and_windows() -> None:
    each = Difference(
        baseline="constant", contender="dynamic", nats=-0.1, nats_interval=(-0.2, -0.05), windows=9
    )
    assert wording.evidence(each) == (
        "−9.5 % perplexity · 95 % interval −18.1 to −4.9 % · −0.100 nats per token · 9 windows, paired"
    )


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

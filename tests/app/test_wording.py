"""Numbers have units, requests have titles, and verdicts are sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DEMO_SHAPE
from contest_stand_in import shipped_measurement
from shrink_stand_in import shrink_run

from analysis.evaluate import Difference
from analysis.scores import SCORES
from analysis.sources.model import ModelSource
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from analysis.sources.windows import Passage
from analysis.speed import Ratio
from app import wording
from app.tables import size_table
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.repair import Repair, SublayerRepair
from slicing.schedule import SlicingSchedule
from slicing.studies.files import text_line
from slicing.studies.options import known_options
from slicing.studies.requests import ProfileRequest
from slicing.studies.results import TextUsed
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
)
from slicing.studies.study import comparison, leaderboard, recipes
from slicing.studies.verdicts import Comparison, read_board, read_comparison
from slicing.wish import Wish

DEMO = TextSource(kind="demo", split="calibration")
EVALUATION = TextSource(kind="demo", split="evaluation")


def shipped_comparison() -> Comparison:
    run: Any = bundled_run()
    return read_comparison(run.request, run.result)


def test_the_known_issue_of_a_score_is_told_where_a_recipe_uses_it():
    (issue,) = wording.known_issues(
        recipes("slice(dynamic, lr-published)", "slice(dynamic)", "slice(rising)")
    )
    assert issue == (SCORES["lr-published"].title, SCORES["lr-published"].known_issue)


def test_windows_of_two_texts_are_counted_once_where_they_are_as_many() -> None:
    study = bundled_run().request
    assert study.kind == "study"
    assert wording.windows_of_both(study) == "16 windows of 512 tokens of each"
    fewer = study.model_copy(update={"evaluation_windows": 8})
    assert wording.windows_of_both(fewer) == "16 and 8 windows of 512 tokens"


def test_numbers_carry_their_units() -> None:
    assert wording.percent(0.25) == "25.0\N{NO-BREAK SPACE}%"
    assert wording.percent(-0.111, signed=True) == "−11.1\N{NO-BREAK SPACE}%"
    assert wording.percent(0.111, signed=True) == "+11.1\N{NO-BREAK SPACE}%"
    for nothing in (0.0, -0.0, -0.0004, 0.0004):
        assert wording.percent(nothing, signed=True) == wording.percent(nothing) == "0.0\N{NO-BREAK SPACE}%"
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
    assert TextSource.parse(text_line(source, role), role) == source


RUNS = (bundled_run, bundled_energy, bundled_sweep, bundled_contest, bundled_board)
MODEL = "SmolLM2-135M-Instruct (demo)"


def test_titles_say_what_is_asked_for() -> None:
    assert [wording.title(shipped().request).replace("\N{NO-BREAK SPACE}", " ") for shipped in RUNS] == [
        f"Compare {MODEL}, slicing, dynamic (LR rule), SB 10 %, SP 25 %",
        f"Compare {MODEL}, slicing, dynamic (LR rule), by discarded energy, SB 10 %, SP 25 %",
        f"Map of 5 bases at SP 10/20/30 % on {MODEL}",
        f"Study of 10 recipes at the size of constant slicing at SP 25 % on {MODEL}",
        f"Study of 20 recipes at 10/20/30 % fewer parameters on {MODEL}",
    ]
    study: Any = bundled_board().request
    dense, trial = study.trials()[0], study.trials()[4]
    for request, words in (
        (dense, f"Try {MODEL}, dense"),
        (trial, f"Try {MODEL}, random blocks, 10 % fewer parameters"),
        (trial.compress_request(), f"Compress {MODEL}, random blocks, 10 % fewer parameters"),
        (ProfileRequest(model=study.model, text=DEMO), f"Profile {MODEL}"),
    ):
        assert wording.title(request).replace("\N{NO-BREAK SPACE}", " ") == words


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (("mean_slice=0.25",), "SP 25 %"),
        (("blocks=4", "blocks=8"), "4/8 blocks fewer"),
        (("size=100000000",), "100,000,000 parameters"),
        (("parameters=0.1", "mean_slice=0.2", "parameters=0.3"), "10/30 % fewer parameters and SP 20 %"),
    ],
)
def test_budgets_of_one_measure_are_said_together(budgets: tuple[str, ...], words: str) -> None:
    said = wording.budgets_line([Budget.parse(each) for each in budgets])
    assert said.replace("\N{NO-BREAK SPACE}", " ") == words


@pytest.mark.parametrize(
    ("lines", "begins"),
    [
        (("slice(constant)", "slice(dynamic)"), "Sequential: "),
        (("slice(constant, one_shot=true)",), "One-shot: "),
        (("slice(constant)", "slice(constant, one_shot=true)"), "Some recipes "),
        (("slice(plain=true)",), "One-shot: "),  # its basis is found on the dense model
        (("sleb", "shortgpt"), ""),
    ],
)
def test_how_bases_are_found_is_said(lines: tuple[str, ...], begins: str) -> None:
    shared: Any = bundled_run().request
    study = leaderboard(recipes(*lines), model=shared.model, calibration=DEMO, evaluation=EVALUATION)
    told = wording.sequential_or_one_shot(study)
    assert told.startswith(begins) and bool(told) == bool(begins)
    assert wording.sequential_or_one_shot(study.recipes[-1]) or not begins


def test_what_a_plain_model_costs_is_said_without_shortcuts() -> None:
    told = wording.reduction(SlicingSchedule.in_one_basis(DEMO_SHAPE, 432), DEMO_SHAPE)
    assert "9.2\N{NO-BREAK SPACE}% fewer parameters" in told
    assert "one basis takes no shortcut matrices" in told


def test_a_study_says_how_many_trials_it_is() -> None:
    told = wording.trials_size(bundled_board().request, bundled_run())  # type: ignore[arg-type]
    assert told.startswith("97 trials: ") and " h at the pace of the run shown on Profile" in told
    board = bundled_board().request
    assert board.kind == "study"
    some = board.model_copy(update={"seeds": (0, 1), "redrawn": board.recipes[1:3]})
    assert "all but 3 recipes run with the first seed alone" in wording.trials_size(some, bundled_run())


@pytest.mark.parametrize(
    ("slices", "parameters", "words"),
    [
        (-0.15, -0.2, "Dynamic slicing predicts :green[better] than constant slicing: −"),
        (0.15, 0.2, "predicts :orange[worse]"),
        (0.0, 0.0, "no clear difference from constant slicing"),
        (-0.15, 0.0, "at equal mean slice (−"),
        (None, None, "Too few windows to tell"),
    ],
)
def test_the_verdict_is_one_sentence(slices: float | None, parameters: float | None, words: str) -> None:
    run = bundled_run()
    result: Any = run.result
    planned = shipped_measurement("dynamic").evaluation
    nll = np.asarray(planned.nll) if slices is not None else np.asarray(planned.nll)[:7]
    noise = np.resize([0.01, -0.01], nll.size)
    shifts = {"constant": slices or 0.0, "constant-matched": parameters or 0.0}
    moved = {
        where: tuple(
            each.model_copy(
                update={
                    "evaluation": each.evaluation.model_copy(
                        update={"nll": tuple(nll - shifts[each.name] + noise if each.name in shifts else nll)}
                    )
                }
            )
            for each in getattr(result, where)
        )
        for where in ("measurements", "matched")
    }
    request: Any = run.request
    sentence = wording.verdict(read_comparison(request, result.model_copy(update=moved)))
    assert words in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")


def test_equal_words_about_a_profile_mean_equal_windows() -> None:
    shared: dict[str, Any] = {"model": ModelSource(kind="demo"), "window_length": 64}
    compared = comparison(Plan(), **shared, calibration=DEMO, evaluation=EVALUATION)
    told = wording.profiled(compared)
    assert told == "the first 8 of 16 windows of 64 tokens, drawn with seed 0"
    assert wording.profiled(ProfileRequest(**shared, text=DEMO, drawn=16)) == told
    assert (
        wording.profiled(ProfileRequest(**shared, text=DEMO)) == "8 windows of 64 tokens, drawn with seed 0"
    )


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(1.0, 1.2, "1.10× (1.00 to 1.20)"), (1.0, 1.21, "too noisy to tell"), (0.9, 2.78, "too noisy to tell")],
)
def test_a_speed_is_told_where_the_rounds_agree_within_a_fifth(low: float, high: float, told: str) -> None:
    timed: Any = shipped_measurement("dynamic").speed
    timed = timed.model_copy(update={"prompt": Ratio(median=1.1, low=low, high=high)})
    assert wording.times(timed, "prompt") == told
    few = timed.model_copy(update={"rounds": 4})
    assert wording.times(few, "prompt") == "too few rounds to tell"
    assert wording.times(None, "prompt") == ""


def test_the_run_that_ships_shows_no_speed_but_paired_ratios() -> None:
    table = size_table(shipped_comparison())
    assert not {"tokens/s", "slicing"} & set(table.columns)
    assert set(table["generation"]) >= {"", "too noisy to tell"}
    timed: Any = shipped_measurement("dynamic").speed
    assert "94\N{NO-BREAK SPACE}% of cases" in wording.speed(timed) and "5 rounds" in wording.speed(timed)


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
        "−9.5\N{NO-BREAK SPACE}% perplexity · 95\N{NO-BREAK SPACE}% interval −18.1 to "
        "−4.9\N{NO-BREAK SPACE}% · "
        "−0.100 nats per token · 9 windows, paired"
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
    constant = shipped_measurement("constant")
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


def test_a_recipe_has_one_perplexity_wherever_it_is_told_and_of_how_many_draws_it_is() -> None:
    board: Any = bundled_board()
    (at,) = (table for table in read_board(board.request, board.result).tables if table.budget.amount == 0.2)
    for opens in ("transformers", "everywhere"):
        wish = Wish(fewer=0.2, opens=opens)
        known = known_options(board.request.model, wish, board.result.shape, 4)
        for option in known:
            standing = at.standing(option.recipe.line)
            assert standing and option.draws == len(standing.runs)
            assert option.measured.evaluation.perplexity == pytest.approx(standing.perplexity)
            assert option.measured.other and standing.other_perplexity
            assert option.measured.other.perplexity == pytest.approx(standing.other_perplexity)
        number = f"{known[0].measured.evaluation.perplexity:.2f} ({wording.draws(known[0].draws)})"
        assert number in wording.known(known, wish)
    best = at.best_of()
    assert best and len(best.runs) == 3
    number = f"{best.perplexity:.2f} (mean of 3 draws)"
    (told,) = (
        line for line in wording.frontier(read_board(board.request, board.result)) if "At 20" in line[:5]
    )
    assert number in told
    assert wording.draws(1) in wording.cost(shipped_comparison())


def test_nothing_is_clearly_worse_that_the_second_text_does_not_tell_apart() -> None:
    board: Any = bundled_board()
    wish = Wish(fewer=0.2)
    known = known_options(board.request.model, wish, board.result.shape, 4)
    first, second = wording.differences(known[0].measured, known[1].measured)
    assert (first.verdict, second.verdict) == ("worse", "no clear difference")
    assert "all others that are known are clearly worse" not in wording.known(known, wish)
    assert f"no clear difference from “{known[1].recipe.title}”" in wording.known(known, wish)


def test_a_size_that_was_asked_for_is_told_where_another_is_reached() -> None:
    gap = "\N{NO-BREAK SPACE}"
    assert wording.fewer(0.12) == f"12.0{gap}% fewer parameters"
    assert wording.fewer(0.12, 0.12) == f"12.0{gap}% fewer parameters"
    assert wording.fewer(0.12, 0.15) == f"12.0{gap}% fewer parameters (asked 15{gap}%, nearest 12.0{gap}%)"
    assert wording.fewer(-0.01) == f"1.0{gap}% more parameters"
    run = shrink_run()
    assert run.request.kind == "shrink" and run.result.kind == "shrink"
    assert f"(asked 20{gap}%, nearest" in wording.shrunk(run.request, run.result)[0]

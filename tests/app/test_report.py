"""The report: one file that holds everything, asks for nothing, and takes nothing from a run for markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from contest_stand_in import contest_run
from slicing.runs import ProfileRecipe, Run, SliceRecipe, TrialRecipe

from analysis.source import ModelSource
from analysis.texts import TextSource
from app.citations import ALLOCATIONS, ENTRIES, SCORES, bibtex, citations
from app.report import build_report, sections
from slicing import allocation, bench
from slicing.library import Note, annotate, bring_in
from slicing.plan import Plan
from slicing.study.store import bundled_run, bundled_sweep


class Page(HTMLParser):
    """What a browser would fetch, and the tags that are open at the end."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "link", "iframe"):
            self.fetched += [str(given[name]) for name in ("src", "href") if name in given]
        if given.get("id"):
            self.ids.append(str(given["id"]))


@pytest.fixture(scope="module")
def report() -> str:
    return build_report(bundled_run())


def test_a_comparison_has_all_its_charts_tables_and_facts(report):
    run = bundled_run()
    titles = [each.title for each in sections(run)]
    assert titles == [
        "Perplexity",
        "Paired difference",
        "Where the difference comes from",
        "Four sizes, and what they took",
        "What was cut where",
        "LR score of every block",
        "Depth by depth",
        "Heads and MLP",
        "Logit lens",
    ]
    for each in sections(run):
        assert f"<h2>{each.title}</h2>" in report
        assert not each.table.empty
    assert report.count('class="chart"') == 8
    for fact in (
        run.key,
        "slicescope compare --model demo",
        run.environment.versions["torch"],
        run.result.evaluation.digest,
        "no overlap, exp of the mean negative log-likelihood",
        "16 windows from 1 document: windows of one document resemble each other",
        "@inproceedings{ashkboos2024slicegpt",
        "An illustration, not evidence",
        "−9.2 %",
    ):
        assert fact in report


@pytest.mark.parametrize("bundled", [bundled_run, bundled_sweep])
def test_a_report_says_all_that_a_result_may_not_hide(bundled):
    run = bundled()
    few = {"calibration_windows": 1, "profile_windows": 1, "evaluation": run.recipe.calibration}
    content = build_report(run.model_copy(update={"recipe": run.recipe.model_copy(update=few)}))
    assert content.count("which flatters every smaller model") == 1
    assert content.count("576 dimensions are found on 512 tokens") == 1


def test_it_asks_for_nothing_from_outside(report):
    page = Page(report)
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    ours = report[report.index("<body>") :]
    assert not re.search(r"https?://", ours.replace("http://www.w3.org", ""))


def test_the_charts_are_whole_figures(report):
    drawn = re.findall(r"draw\('chart-\d+',(.*?)\)</script>", report, flags=re.S)
    assert len(drawn) == 8
    for content in drawn:
        assert json.loads(content.replace("<\\/", "</"))["data"]


def test_nothing_of_a_run_is_taken_for_markup():
    run = bundled_run()
    hostile = "</script><script>alert(1)</script><b>"
    result = run.result.model_copy(
        update={
            "profile": run.result.profile.model_copy(update={"model": hostile, "text": hostile}),
            "contestants": tuple(
                each.model_copy(
                    update={"title": hostile, "sample": each.sample.model_copy(update={"text": hostile})}
                )
                for each in run.result.contestants
            ),
            "evaluation": run.result.evaluation.model_copy(
                update={
                    "label": hostile,
                    "passages": tuple(
                        each.model_copy(update={"document": hostile, "begins": hostile})
                        for each in run.result.evaluation.passages
                    ),
                }
            ),
        }
    )
    recipe = run.recipe.model_copy(update={"prompt": hostile})
    content = build_report(run.model_copy(update={"result": result, "recipe": recipe}))
    assert "<script>alert(1)" not in content
    assert "</script><script>alert" not in content


def test_a_sweep_and_a_profile_have_reports_too(tiny_folder: Path, tmp_path: Path):
    assert [each.title for each in sections(bundled_sweep())][:2] == [
        "Which base, which target",
        "Size against loss",
    ]
    assert "SB 5 %" in build_report(bundled_sweep())
    text = tmp_path / "text.txt"
    text.write_text("a report has at least one page " * 100)
    source = TextSource.parse(str(text), "calibration")
    model = ModelSource.parse(str(tiny_folder))
    shared = {"model": model, "window_length": 16}
    bases = {**shared, "calibration": source, "calibration_windows": 3, "profile_windows": 2}
    profile = bench.perform(ProfileRecipe(text=source, windows=2, **shared))
    assert [each.title for each in sections(profile)] == [
        "LR score of every block",
        "Depth by depth",
        "Heads and MLP",
    ]
    looked = bench.perform(ProfileRecipe(text=source, windows=2, lens=True, **shared))
    assert [each.title for each in sections(looked)][-1] == "Logit lens"
    sliced = bench.perform(SliceRecipe(plan=Plan(rounding=1), **bases))
    assert sections(sliced)[0].title == "What was cut where"
    trial = bench.perform(TrialRecipe(evaluation=source, evaluation_windows=3, plan=None, **bases))
    for run in (profile, looked, sliced, trial):
        assert run.key in build_report(run)


def test_a_contest_has_its_chart_and_the_damage_that_was_measured():
    run = contest_run()
    first, *rest = sections(run)
    assert first.title == "Who loses least"
    assert first.drawing is not None
    assert "constant+repair loses least" in first.text
    assert first.text.startswith("Loss kept")
    assert "Against measured damage: Leave-one-out loss" in [each.title for each in rest]
    content = build_report(run)
    assert "no better than chance: softmax:block-influence" in content
    assert "slicescope contest --model demo" in content
    for key in ("lin2025modegpt", "dumitru2024change", "ashkboos2024slicegpt"):
        assert key in content


def test_the_name_and_note_of_a_run_head_its_report():
    run: Run = bring_in(bundled_run().to_json().encode(), "it")
    annotate(run.key, Note(label="<The talk>", text="For <everyone>"))
    content = build_report(run)
    assert "<h1>&lt;The talk&gt;</h1>" in content
    assert "For &lt;everyone&gt;" in content


def test_every_score_and_every_published_allocation_is_cited():
    from analysis import scores

    assert set(SCORES) == set(scores.SCORES)
    assert set(SCORES.values()) | set(ALLOCATIONS.values()) <= set(ENTRIES)
    assert set(ALLOCATIONS) <= set(allocation.ALLOCATIONS)


@pytest.mark.parametrize(
    ("plan", "keys"),
    [
        (Plan(), ("ashkboos2024slicegpt", "dumitru2024change")),
        (Plan(score="angular"), ("ashkboos2024slicegpt", "dumitru2024change", "gromov2025unreasonable")),
        (Plan(allocation="constant", settings={}), ("ashkboos2024slicegpt",)),
        (Plan(allocation="manual", settings={"shares": (0.1, 0.2)}), ("ashkboos2024slicegpt",)),
    ],
)
def test_a_plan_cites_what_it_uses(plan, keys):
    recipe = bundled_run().recipe.model_copy(update={"plan": plan})
    assert citations(recipe) == keys
    for key in keys:
        assert ENTRIES[key] in bibtex(recipe)


def test_entries_are_well_formed():
    for entry in (*ENTRIES.values(), bibtex(bundled_run().recipe)):
        assert entry.count("{") == entry.count("}")
        assert entry.startswith("@")
    assert "@software{slicescope" in bibtex(bundled_run().recipe)
    assert citations(bundled_sweep().recipe.dense()) == ()

"""The report: one file that holds everything, asks for nothing, and takes nothing from a run for markup."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from board_stand_in import board_run
from contest_stand_in import contest_run
from shrink_stand_in import shrink_run

from analysis.scores import SCORES
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from app.citations import ENTRIES, bibtex, citations
from app.figures.profile import draw_similarity
from app.figures.svg.chart import NARROW, WIDE, as_svg
from app.repeat import study_file
from app.report import build_report, figures, sections
from app.tables import ranking_table
from slicing.allocation import ALLOCATIONS
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.library import Note, annotate, annotate_block, bring_in
from slicing.plans import Plan
from slicing.repairs import REPAIRS
from slicing.steps import STEPS
from slicing.steps.removal import Removal
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, Trial
from slicing.studies.results import Run, TrialResult
from slicing.studies.run import perform
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
    find_details,
)
from slicing.studies.study import comparison, recipes
from slicing.studies.verdicts import read_board


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
        "Recipes",
        "LR score of every block",
        "The stream as a cloud",
        "The same, cut",
        "Energy of every direction",
        "Depth by depth",
        "Heads and MLP",
        "Logit lens",
    ]
    for each in sections(run):
        assert f"<h2>{each.title}</h2>" in report
        assert not each.table.empty
    assert report.count('<figure class="chart">') == 12
    for fact in (
        run.key,
        "slicescope study study.toml",
        "view = &quot;comparison&quot;",
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
    few = {"calibration_windows": 1, "profile_windows": 1, "evaluation": run.request.calibration}
    content = build_report(run.model_copy(update={"request": run.request.model_copy(update=few)}))
    assert content.count("which flatters every smaller model") == 1
    assert content.count("576 dimensions are found on 512 tokens") == 1


def test_the_report_of_a_study_says_once_what_is_alike_and_parts_no_number_from_its_percent_sign() -> None:
    content = build_report(bundled_board())
    assert "22.67 → 25.50, 31.74, 38.40 (means of 3 draws): least perplexity at" in content
    warned = re.findall("<p class=note>(.*?)</p>", content)
    assert any("sink is damaged" in each for each in warned)
    assert not [each for each in warned if re.search(r"\d ?%", each)]


def test_it_asks_for_nothing_from_outside(report):
    page = Page(report)
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    ours = report[report.index("<body>") :]
    assert not re.search(r"https?://", ours.replace("http://www.w3.org", ""))


def test_the_charts_are_whole_figures(report):
    drawn = re.findall(r"<svg.*?</svg>", report, flags=re.S)
    assert len(drawn) == 2 * 11 + 1  # for windows and for phones; the answer is small everywhere
    for content in drawn:
        shapes = {each.tag.rpartition("}")[2] for each in ElementTree.fromstring(content).iter()}
        assert shapes & {"path", "rect", "circle"}
        assert "text" in shapes or "token states" in content  # a cloud has no axes
    assert "<script" not in report and " onclick" not in report


def test_a_report_opens_with_the_verdict_the_cost_and_the_sizes(report):
    first = report[: report.index("<nav")]
    for said in (
        "22.67 → 46.30 (one draw): perplexity doubles for 11.1",
        "Dynamic slicing predicts better than constant slicing",
        "<p class=value>119.6 M</p><p class=change>−11.1",
        "After “Mr. Speaker, the state of our Union is” they write:",
        "not a matter of the Constitution",
    ):
        assert said in first, said


@pytest.mark.parametrize(
    "bundled", [bundled_run, bundled_energy, bundled_sweep, bundled_contest, bundled_board]
)
def test_a_report_is_small_enough_to_mail(bundled):
    run = bundled()
    content = build_report(run)
    assert len(content.encode()) < 1_500_000 / 2
    drawn = [each for each in sections(run) if each.drawing]
    assert len(figures(run)) == len(drawn)
    assert list(figures(run)) == sorted(figures(run))


def test_a_shrink_and_a_profile_of_a_deep_model_are_small_enough_too():
    run = shrink_run()
    content = build_report(run)
    assert len(content.encode()) < 1_500_000
    assert content[: content.index("<nav")].count("perplexity") >= 2
    deep = np.random.default_rng(0).random((81, 81))
    details = find_details(bundled_run())
    drawing = draw_similarity(details._replace(similarity=deep.astype(np.float32)))
    assert sum(len(as_svg(drawing, width)) for width in (WIDE, NARROW)) < 500_000


def test_nothing_of_a_run_is_taken_for_markup():
    run = bundled_run()
    hostile = "</script><script>alert(1)</script><b>"
    result = run.result.model_copy(
        update={
            "profile": run.result.profile.model_copy(update={"model": hostile, "text": hostile}),
            "measurements": tuple(
                each.model_copy(
                    update={"title": hostile, "sample": each.sample.model_copy(update={"text": hostile})}
                )
                for each in run.result.measurements
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
    request = run.request.model_copy(update={"prompt": hostile})
    content = build_report(run.model_copy(update={"result": result, "request": request}))
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
    profile = perform(ProfileRequest(text=source, windows=2, **shared))
    assert [each.title for each in sections(profile)] == [
        "LR score of every block",
        "The stream as a cloud",
        "The same, cut",
        "Energy of every direction",
        "Depth by depth",
        "Heads and MLP",
    ]
    looked = perform(ProfileRequest(text=source, windows=2, lens=True, **shared))
    assert [each.title for each in sections(looked)][-1] == "Logit lens"
    recipe = Recipe.parse("slice(dynamic, rounding=1)")
    sliced = perform(CompressRequest(recipe=recipe, **bases))
    assert [each.title for each in sections(sliced)][:3] == ["What was made", "What was cut where", "Recipes"]
    dense = perform(Trial(evaluation=source, evaluation_windows=3, **bases))
    for run in (profile, looked, sliced, dense):
        assert run.key in build_report(run)


def test_a_ranking_has_its_chart_and_the_damage_that_was_measured():
    run = contest_run()
    first, *rest = sections(run)
    assert first.title.startswith("Who loses least")
    assert first.drawing is not None
    assert "loses least: excess loss" in first.text
    assert first.text.startswith("Excess loss")
    assert "Against measured damage: Leave-one-out loss" in [each.title for each in rest]
    content = build_report(run)
    assert "slicescope study study.toml" in content
    assert "like_constant = [0.25]" in content
    for recipe in run.request.recipes:
        assert recipe.line in content and recipe.title in content
    for key in ("lin2025modegpt", "dumitru2024change", "ashkboos2024slicegpt"):
        assert key in content


@pytest.mark.parametrize(
    ("bundled", "titles"),
    [
        (bundled_contest, ["Who loses least: ", "Recipes"]),
        (
            bundled_board,
            ["Size against loss", *["Who loses least: ", "Where the best recipe cut: "] * 3, "Recipes"],
        ),
    ],
)
def test_a_report_shows_a_study_as_its_view_says(bundled, titles):
    found = [each.title for each in sections(bundled())][: len(titles)]
    assert all(title.startswith(begins) for title, begins in zip(found, titles, strict=True))


def test_a_report_shows_where_a_model_was_cut(tiny_folder: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("a report has at least one page " * 100)
    bases = {
        "model": ModelSource.parse(str(tiny_folder)),
        "calibration": TextSource.parse(str(text), "calibration"),
        "calibration_windows": 3,
        "profile_windows": 2,
        "window_length": 16,
        "budget": Budget.parse("parameters=0.3"),
    }
    made = perform(CompressRequest(recipe=Recipe.parse("fasp(restore=false)"), **bases))
    section = next(each for each in sections(made) if each.title == "Where it was cut")
    assert section.drawing is not None and "MLPs keep" in section.drawing.takeaway
    assert made.result.kind == "compress" and made.result.shape is not None
    shape, hidden = made.result.shape, made.result.shape.hidden_size
    outside = shape.parameters - sum(each.parameters(hidden) for each in shape.sublayers)
    assert section.table["parameters"].sum() + outside == made.result.parameters
    measured = board_run(recipes=recipes("slice(constant)", "fasp"))
    found = [each for each in sections(measured) if each.title.startswith("Where the best recipe cut")]
    assert len(found) == 2 and found[0].text.startswith("Linked columns (FASP). ")


def test_the_name_and_note_of_a_run_head_its_report():
    run: Run = bring_in(bundled_run().to_json().encode(), "it")
    annotate(run.key, Note(label="<The talk>", text="For <everyone>"))
    content = build_report(run)
    assert "<h1>&lt;The talk&gt;</h1>" in content
    assert "For &lt;everyone&gt;" in content


def test_notes_on_blocks_are_in_the_chart_and_below_it():
    run: Run = bring_in(bundled_run().to_json().encode(), "it")
    assert "Notes on blocks" not in build_report(run)
    annotate_block(run.key, 7, "<spare> this one, since the talk is about it")
    found = {each.title: each for each in sections(run)}
    (flag,) = found["LR score of every block"].drawing.figure.layout.annotations
    assert flag.x == 7 and flag.text == "<b>7</b> &lt;spare&gt; this one, since…"
    assert found["Notes on blocks"].table["note"].tolist() == ["<spare> this one, since the talk is about it"]
    assert "&lt;spare&gt; this one" in build_report(run)


def test_everything_that_is_published_is_cited():
    known = [*SCORES.values(), *ALLOCATIONS.values(), *STEPS.values(), *REPAIRS.values()]
    cites = {each.cite for each in known if each.cite}
    keys = {cite for cite in cites if not cite.startswith("@")}  # the others are entries of their own
    assert keys <= set(ENTRIES)
    assert all(score.cite for score in SCORES.values())


@pytest.mark.parametrize(
    ("plan", "keys"),
    [
        (Plan(), ("ashkboos2024slicegpt", "dumitru2024change")),
        (Plan(score="angular"), ("ashkboos2024slicegpt", "dumitru2024change", "gromov2025unreasonable")),
        (Plan(allocation="constant"), ("ashkboos2024slicegpt",)),
        (Plan(allocation="manual", settings={"shares": (0.1, 0.4)}), ("ashkboos2024slicegpt",)),
    ],
)
def test_a_plan_cites_what_it_uses(plan, keys):
    shipped = bundled_run().request
    shared = {name: getattr(shipped, name) for name in ("model", "calibration", "evaluation")}
    study = comparison(plan, **shared)
    assert citations(study) == keys
    for key in keys:
        assert ENTRIES[key] in bibtex(study)


def test_entries_are_well_formed():
    for entry in (*ENTRIES.values(), bibtex(bundled_run().request)):
        assert entry.count("{") == entry.count("}")
        assert entry.startswith("@")
    assert "@software{slicescope" in bibtex(bundled_run().request)
    assert citations(bundled_sweep().request.dense()) == ()


PAPER = "@misc{nobody2026,\n  title = {Nothing: Blocks from the Front}\n}"


def test_a_step_of_anybody_is_shown_reported_and_cited(monkeypatch):
    for name in list(STEPS):
        monkeypatch.setitem(STEPS, name, STEPS[name])  # so that what is added goes again

    class FromTheFront(Removal):
        """Take the first blocks."""

        name = "from-the-front"
        title = "First blocks (Nobody)"
        source = "Nobody, 2026"
        cite = PAPER
        known_issue = "It takes what everything else needs."

        def layout(self, view, count):
            """All but the first."""
            return Layout.without(view.block_count, range(count))

    monkeypatch.setitem(STEPS, FromTheFront.name, FromTheFront)
    recipe = Recipe.parse("from-the-front(windows=2)")
    run = bundled_board()
    study = run.request.model_copy(
        update={"recipes": (*run.request.recipes[:-1], recipe), "budgets": (Budget.parse("parameters=0.1"),)}
    )
    measured = run.result.measurements[: len(study.trials())]
    result = run.result.model_copy(update={"measurements": measured})
    table = ranking_table(read_board(study, result).tables[0]).set_index("recipe")
    assert table["title"][recipe.line] == recipe.title == "First blocks (Nobody), windows to decide on 2"
    content = build_report(run.model_copy(update={"request": study, "result": result}))
    assert content.count(recipe.title) >= 3  # in the chart, the ranking and the list of recipes
    assert FromTheFront.known_issue in content and f"&quot;{recipe.line}&quot;" in content
    assert PAPER in citations(study) and PAPER in bibtex(study)
    assert "title = {Nothing: Blocks from the Front}" in content


@pytest.mark.parametrize("kind", ["study", "trial"])
def test_a_report_holds_the_study_file_that_its_command_reads(kind):
    run = bundled_contest()
    assert run.request.kind == "study" and run.result.kind == "study"
    if kind == "trial":
        study, found = run.request, run.result
        result = TrialResult(
            profile=found.profile,
            shape=found.shape,
            measurement=found.measurements[1],
            calibration=found.calibration,
            evaluation=found.evaluation,
        )
        run = run.model_copy(update={"request": study.trials()[1], "result": result})
    report = html.unescape(build_report(run))
    assert "slicescope study study.toml" in report
    assert study_file(run.request) in report

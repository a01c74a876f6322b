"""What strangers call things is shown as it is: on all pages, in charts, tables, files and the terminal."""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from idle_app import Idle, page, said
from serving import MISSING, Server, look, settle
from stranger_stand_in import IN_FIGURES, NAME, RAW, TEXT, store_strangers, strangers

from analysis.storage import runs_folder
from app import state, wording
from app.cells import UNSEEN, csv, harmless
from app.citations import bibtex
from app.policy import Policy
from app.report import build_report, sections
from slicing.library import take_back, throw_away, trashed
from slicing.studies.store import find_run, list_runs

STUDIES = ("map", "ranking", "frontier")


@pytest.fixture(autouse=True)
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy(roots=(Path("/nowhere"),)))
    monkeypatch.setattr(state, "worker", Idle)


@pytest.fixture
def keys() -> dict[str, str]:
    return store_strangers()


def test_every_kind_of_run_is_among_them(keys: dict[str, str]) -> None:
    found, broken = list_runs()
    assert not broken
    assert {run.key for run in found} == set(keys.values())
    assert len(keys) == 9
    assert {run.request.kind for run in found} == {"profile", "compress", "search", "trial", "study"}


# Pages


def strings(value: Any) -> Iterator[str]:
    """Every string in the data of a chart, but those of plotly's own template."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            if name != "template":
                yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def markup(app: Any) -> Iterator[str]:
    """Every string that the page hands on to be read as Markdown."""
    for kind in (
        "title",
        "header",
        "subheader",
        "markdown",
        "caption",
        "error",
        "warning",
        "info",
        "success",
    ):
        yield from (str(element.value) for element in getattr(app, kind))
    for kind in ("button_group", "radio"):  # whose options are read as Markdown too
        yield from (str(option) for element in app.get(kind) for option in element.options)
    for metric in app.metric:
        yield from (metric.label, metric.value, metric.delta)
    for kind in ("button", "expander", "toggle", "slider", "selectbox", "multiselect", "number_input"):
        yield from (str(element.label) for element in app.get(kind) if hasattr(element, "label"))
    yield from (str(bar.proto.text) for bar in app.get("progress"))


def taken(app: Any) -> list[tuple[str, str]]:
    """What on the page is markup, or does something in a chart, and where."""
    words = [
        (part, text) for text in markup(app) for part in RAW if re.search(rf"(?<!\\){re.escape(part)}", text)
    ]
    charts = (json.loads(chart.proto.spec) for chart in app.get("plotly_chart"))
    labels = [
        (part, text) for chart in charts for text in strings(chart) for part in IN_FIGURES if part in text
    ]
    return words + labels


@pytest.mark.parametrize(
    ("name", "view", "kind"),
    [
        ("runs", None, ""),
        *(("profile", "profile", kind) for kind in ("profile", "comparison", "slice", "remove", "trial")),
        ("tune", "profile", "profile"),
        ("tune", "profile", "comparison"),
        ("compare", "compare", "comparison"),
        *(("study", "study", kind) for kind in (*STUDIES, "comparison")),
        ("notes", "compare", "comparison"),
        ("talk", "compare", "comparison"),
    ],
)
def test_no_page_takes_a_string_for_markup(
    keys: dict[str, str], name: str, view: str | None, kind: str
) -> None:
    extra = {"near": "Beside other runs"} if kind == "remove" else {}
    app = page(name, **({view: keys[kind]} if view else {"trials": "true"}), **extra)
    assert not app.error
    if view:
        assert not [each for each in app.warning if "cannot be read" in each.value]
    assert not taken(app)
    if name not in ("tune", "notes", "talk", "study"):
        assert any("\\x1b" in text for text in markup(app))
    for table in app.dataframe:
        texts = [
            each for each in [*table.value.columns, *table.value.to_numpy().ravel()] if isinstance(each, str)
        ]
        assert not [each for each in texts if each.startswith("=") or "\x1b" in each]


def test_the_card_of_a_recipe_takes_no_string_for_markup(keys: dict[str, str]) -> None:
    for kind in STUDIES:
        study: Any = find_run(keys[kind]).request
        app = page("study", study=keys[kind])
        app.session_state["study-mark"] = study.recipes[-1].line, study.budgets[-1].line
        app.run()
        assert not app.exception
        assert not taken(app)


# Files


@pytest.mark.parametrize("kind", sorted(strangers()))
def test_a_report_is_text_but_for_our_own_markup(keys: dict[str, str], kind: str) -> None:
    run = find_run(keys[kind])
    content = build_report(run)
    body = content[content.index("<body>") :]
    assert "\x1b" not in body
    words = re.sub(r"<a href=#part-\d+>", "", body)  # the list of its own parts
    assert not [part for part in ("<b>x", "<a ", "<i>", "<script") if part in words]
    assert html.escape(":red[x]") in words
    for section in sections(run):
        rows = csv(section.table).decode().splitlines()
        assert not [row for row in rows if re.match(r"[=@]|[+-](?![\d.])", row)]
    assert bibtex(run.request).count("@") == bibtex(run.request).count("\n@") + 1
    assert "x1b" not in bibtex(run.request)


def test_text_is_no_formula_and_numbers_stay_numbers() -> None:
    cells = ["=1+1", "+1", "-3.5", "+1.2 %*", "-1+1", "@x", "\t=1", "x=1", "", "\uff1d1"]
    table = pd.DataFrame({"=head": cells, "number": [-1.0, *range(9)]})
    assert list(harmless(table, "'")["'=head"]) == [
        *("'=1+1", "+1", "-3.5", "+1.2 %*", "'-1+1", "'@x", "'\t=1", "x=1", "", "'\uff1d1"),
    ]
    assert list(harmless(table, UNSEEN)["number"]) == [-1.0, *range(9)]
    assert list(table["=head"]) == cells
    assert csv(table).decode().splitlines()[:2] == ["'=head,number", "'=1+1,-1.0"]


# Terminal


def test_the_terminal_shows_strings_as_they_are(
    keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    for words in (
        ["runs"],
        ["runs", "list", "--json", "-"],
        *(["runs", "show", key] for key in keys.values()),
        *(["cite", key] for key in keys.values()),
        ["runs", "export", keys["comparison"], "--out", str(tmp_path / "run.zip")],
        ["report", keys["comparison"], "--out", str(tmp_path / "report.html")],
        ["runs", "rename", keys["profile"], NAME.replace("\x1b", "")[:100]],
        ["runs", "delete", keys["profile"]],
        ["runs", "trash"],
        ["runs", "show", TEXT],
    ):
        code, *both = said(monkeypatch, capsys, *words)
        assert code == (6 if words == ["runs", "show", TEXT] else 0)
        assert not [text for text in both if "\x1b" in text]
        if words in (["runs"], ["runs", "show", keys["comparison"]], ["runs", "show", TEXT]):
            assert ":red[x]" in "".join(both) and "[red]x" in "".join(both) and ":smile:" in "".join(both)
    (name,) = trashed()
    assert take_back(name) == keys["profile"]
    assert zipfile.is_zipfile(tmp_path / "run.zip")


def test_a_line_break_makes_no_row(
    keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    (runs_folder() / "two\nrows").mkdir()
    _, out, _ = said(monkeypatch, capsys, "runs")
    assert "two\\nrows" in out
    throw_away("two\nrows")


# Markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("- no list", "\\- no list"),
        ("12. no list", "12\\. no list"),
        ("two\n\n# lines", "two \\# lines"),
        ("  a\tb ", "a b"),
        ("&lt;", "\\&lt;"),
        (":smile:", "\\:\u2060smile:"),
        ("a -> b", "a -\u2060\\> b"),
        ("25.0 %, 12:30", "25.0 %, 12\\:30"),
    ],
)
def test_a_line_of_markdown_shows_the_text(text: str, shown: str) -> None:
    assert wording.verbatim(text) == shown


# A browser


@pytest.mark.browser
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_browser_finds_nothing_but_text(keys: dict[str, str], shipped_server: Server, browser: Any) -> None:
    # The test of pages above walks them all; here are those that are drawn by the most kinds of parts.
    shown = [("compare", f"compare?compare={keys['comparison']}")]
    shown += [("study", f"study?study={keys['frontier']}")]
    shown += [("notes", f"notes?compare={keys['comparison']}"), ("runs", "runs")]
    shown += [("profile", f"profile?profile={keys['remove']}&near=Beside+other+runs")]
    with shipped_server.lent(runs_folder()):
        opened = look(browser, shipped_server.address, 1440, 1400)
        for name, path in shown:
            opened.goto(f"{shipped_server.address}/{path}")
            settle(opened)
            if name not in ("runs", "notes"):
                opened.locator(".js-plotly-plot .main-svg").first.wait_for()
            assert opened.get_by_test_id("stException").count() == 0
            found = opened.evaluate(FOUND)
            assert found == [], f"{path}: {found}"
            words = opened.locator("[data-testid=stMain]").inner_text().replace("\N{WORD JOINER}", "")
            for part in (":red[x]", "[red]x", "<b>x", "$x$", "**x**", ":smile:", "&lt;i&gt;", "\\x1b[31m"):
                assert part in words, (path, part)


FOUND = """() => {
  const found = [...document.querySelectorAll("a")].filter(
    a => /evil/.test((a.getAttribute("href") || "") + (a.getAttribute("xlink:href") || "")));
  const main = document.querySelector("[data-testid=stMain]");
  const inner = ["b", "i", ".katex", "[data-testid=stMain] em", "img"];
  const ours = each => each.closest(".slicescope-cloud");  // whose numbers are bold
  for (const each of inner) found.push(...[...main.querySelectorAll(each)].filter(part => !ours(part)));
  for (const each of main.querySelectorAll("strong, span, tspan, h1, h2, h3, li"))
    if (each.textContent.trim() === "x") found.push(each);
  for (const each of main.querySelectorAll("text, tspan")) {
    if (/bold|italic/.test(each.getAttribute("style") || "") && /x/.test(each.textContent)) found.push(each);
  }
  return found.map(each => each.outerHTML.slice(0, 300));
}"""

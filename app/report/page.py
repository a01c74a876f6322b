"""A report as HTML: a first screen, every part with its chart and table, and what repeats it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from analysis.errors import visible
from app import wording
from app.cells import html_table
from app.citations import bibtex
from app.figures.base import CONSTANT, DYNAMIC, HIGHLIGHT, INSIDE, LIGHT, MANUAL, Drawing
from app.figures.svg.chart import GRID, NARROW, WIDE, as_svg
from app.figures.svg.paint import PAPER, Paint
from app.repeat import STUDY_FILE, command, study_file
from app.report.shown import Section, sections
from app.report.style import STYLE
from app.report.summary import Card, Summary, compared, summary
from app.tables import text_table
from slicing.library import note_of
from slicing.studies.recipe import Recipe
from slicing.studies.results import Request, Run
from slicing.studies.results import warnings as told_of
from slicing.studies.verdicts import Comparison

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page lets a browser do: no script runs, and nothing is fetched."""
LONG = 10
"""Characters of a number, or of a word in its place, that fit into a card in large type."""
_THEMED = {
    LIGHT.ink: "var(--ink)",
    LIGHT.label: "var(--label)",
    LIGHT.measured: "var(--measured)",
    LIGHT.dense: "var(--dense)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
}
_WORDS = {
    CONSTANT: "var(--constant-words)",
    DYNAMIC: "var(--dynamic-words)",
    MANUAL: "var(--manual-words)",
    HIGHLIGHT: "var(--highlight-words)",
    INSIDE: "var(--constant-words)",
}
PAINT = Paint(_THEMED, _WORDS)
"""Colours of charts in the page, which may be light or dark."""


def build_report(run: Run, may_see: Callable[[str], bool] = lambda key: True) -> str:
    """Write the whole file. ``may_see`` says of the key of a stored run whether it may be told of."""
    title = note_of(run.key).label or wording.title(run.request)
    first = f"{_note(run)}{_first_screen(summary(run, may_see))}{_warnings(run)}"
    found, more = compared(run), _foot(run)
    if found and (samples := _samples(found)):
        more.insert(0, ("An illustration, not evidence", samples))
    return _page(title, _line(run, title), first, sections(run), more)


def build_page(title: str, line: str, found: Summary, shown: Sequence[Section]) -> str:
    """Write a file like a report of what is no run: its title, a ``line`` below it, and its parts."""
    return _page(title, line, _first_screen(found), shown, ())


def _page(
    title: str, line: str, first: str, shown: Sequence[Section], more: Sequence[tuple[str, str]]
) -> str:
    """A page: its ``first`` screen, what is ``shown`` part by part, and ``more`` parts in HTML."""
    parts = [(each.title, _section(each, f"chart-{number}")) for number, each in enumerate(shown)]
    parts += more
    listed = "".join(
        f"<li><a href=#part-{number}>{_text(name)}</a></li>" for number, (name, _) in enumerate(parts)
    )
    body = "".join(
        f"<section id=part-{number}><h2>{_text(name)}</h2>{content}</section>"
        for number, (name, content) in enumerate(parts)
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_text(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        f"<style>{STYLE}</style></head><body><main>"
        f"<p class=brand>slicescope</p><h1>{_text(title)}</h1>"
        f"<p class=quiet>{_text(line)}</p>{first}"
        f"<nav aria-label=Parts><ol>{listed}</ol></nav>{body}</main></body></html>"
    )


def figures(run: Run) -> dict[str, str]:
    """Draw every figure of a run as an SVG file, by names that follow the order of its report."""
    shown = [each for each in sections(run) if each.drawing]
    return {
        f"{number:02d}-{_slug(each.title)}.svg": alone(each.drawing)
        for number, each in enumerate(shown, 1)
        if each.drawing
    }


def alone(drawing: Drawing) -> str:
    """Draw a figure as a file of its own, light, on white."""
    drawn = as_svg(drawing)
    return drawn.replace("<defs>", '<rect width="100%" height="100%" fill="#FFFFFF"/><defs>', 1)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]


def _line(run: Run, title: str) -> str:
    """When a run was made, its key, and what it is where its heading is a name that somebody gave it."""
    own = wording.title(run.request)
    return " · ".join(
        [*([own] if title != own else []), f"{run.created:%d %b %Y %H:%M} UTC", f"run {run.key}"]
    )


def _note(run: Run) -> str:
    told = note_of(run.key).text
    return f"<p class=note>{_text(told)}</p>" if told else ""


def _warnings(run: Run) -> str:
    found = run.request.warnings(run.result.shape) + told_of(run.result)
    return "".join(f"<p class=note>{_text(wording.typeset(warning))}</p>" for warning in found)


def _first_screen(found: Summary) -> str:
    said = [f"<p class=verdict>{_text(found.verdict)}</p>"]
    said += [f"<p class=second>{_text(each)}</p>" for each in found.said]
    if found.cards:
        said.append(f"<div class=cards>{''.join(map(_card, found.cards))}</div>")
    beside = []
    if found.drawing:
        beside.append(_chart(found.drawing, "chart-answer", small=True))
    if found.samples:
        beside.append(_continued(found))
    if beside:
        said.append(f"<div class=beside>{''.join(beside)}</div>")
    said += [
        f"<p>{_text(how)}: <b>{_text(verdict)}</b>. {_text(evidence)}</p>"
        for how, verdict, evidence in found.evidence
    ]
    said += [f"<p class=quiet>{_text(each)}</p>" for each in found.notes if each]
    return f"<div class=summary>{''.join(said)}</div>"


def _card(card: Card) -> str:
    change = f"<p class=change>{_text(card.change)}</p>" if card.change else ""
    note = f"<p class=quiet>{_text(card.note)}</p>" if card.note else ""
    label, value = _text(card.label), _text(card.value)
    size = '"value long"' if len(card.value) > LONG else "value"
    return f"<div><p class=label>{label}</p><p class={size}>{value}</p>{change}{note}</div>"


def _continued(found: Summary) -> str:
    told = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(text) or '(nothing)'}</dd>" for name, text in found.samples
    )
    said = f"After “{_text(found.prompt)}” they write:"
    return f"<div class=samples><p class=quiet>{said}</p><dl>{told}</dl></div>"


def _told(text: str) -> str:
    if "\n" in text:
        return f"<ul class=quiet>{''.join(f'<li>{_text(each)}</li>' for each in text.splitlines())}</ul>"
    return f"<p class=quiet>{_text(text)}</p>" if text else ""


def _chart(drawing: Drawing, name: str, small: bool = False) -> str:
    """A chart for windows and one for phones, of which a page shows one, and its takeaway."""
    narrow = as_svg(drawing, NARROW, f"{name}-n", PAINT, told=small)
    wide = "" if small else f"<div class=wide>{as_svg(drawing, WIDE, f'{name}-w', PAINT)}</div>"
    drawn = f"<div class={'small' if small else 'narrow'}>{narrow}</div>"
    said = _text(drawing.takeaway)
    return f'<figure class="chart">{wide}{drawn}<figcaption>{said}</figcaption></figure>'


def _section(section: Section, name: str) -> str:
    told = _told(section.text)
    if section.drawing is None:
        return told + _table(section)
    twin = f"<details><summary>The same as a table</summary>{_table(section)}</details>"
    return f"{told}{_chart(section.drawing, name)}{twin}"


def _table(section: Section) -> str:
    """A table that scrolls inside its frame, also by keys."""
    return _framed(html_table(section.table), f"Table: {section.title}")


def _framed(table: str, name: str) -> str:
    return f'<div class=frame tabindex=0 role=region aria-label="{_text(name)}">{table}</div>'


def _samples(found: Comparison) -> str:
    cards = "".join(
        f"<div><h3>{_text(each.title)}</h3><p>{_text(each.sample.text.strip())}</p></div>"
        for each in found.measured.values()
        if each.sample
    )
    if not cards:
        return ""
    told = f"Each model continues the prompt greedily: “{_text(found.study.prompt)}”"
    return f"<p class=quiet>{told}</p><div class=texts>{cards}</div>"


def _foot(run: Run) -> list[tuple[str, str]]:
    where, request = run.environment, run.request
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    table = text_table(run).drop(columns="passages", errors="ignore")
    return [
        *_repeating(request),
        (
            "Where and with what",
            f"<p>{run.created:%d %b %Y %H:%M} UTC, {_text(wording.duration(run.seconds))} on "
            f"{_text(where.device)} ({_text(where.device_name)}) in {_text(where.dtype)} with "
            f"{where.threads} threads. {_text(where.platform)}; {_text(versions)}</p>"
            f"{_framed(html_table(table), 'Table: texts')}",
        ),
        ("Request", f"<pre>{_text(request.to_json())}</pre>"),
        ("To cite", f"<pre>{_text(bibtex(request, _chosen(run)))}</pre>"),
    ]


def _repeating(request: Request) -> list[tuple[str, str]]:
    """Give the command that carries the request out again, and the file that it reads, where one can."""
    if request.model.kind == "memory":
        told = "The model was in the memory of a program, so no command repeats this: save it first."
        return [("How to repeat it", f"<p>{_text(told)}</p>")]
    return [("The command that repeats it", f"<pre>{_text(command(request))}</pre>"), *_study_file(request)]


def _chosen(run: Run) -> tuple[Recipe, ...]:
    """The recipes that a run came to and its request does not name."""
    return tuple(each.recipe for each in run.result.finalists) if run.result.kind == "shrink" else ()


def _study_file(request: Request) -> list[tuple[str, str]]:
    """Give the file that the command reads, where it reads one."""
    if request.kind == "profile" or request.kind == "compress" or request.kind == "shrink":
        return []
    return [(f"{STUDY_FILE}, which the command reads", f"<pre>{_text(study_file(request))}</pre>")]


def _text(value: object) -> str:
    return html.escape(visible(str(value)))

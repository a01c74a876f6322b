"""The dial of sizes shows what the study that ships measured and wrote, and breaks out of no page."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from told_stand_in import case

from app.figures.base import DARK, LIGHT, Theme
from app.figures.dial import SCRIPT, DialView, Size, draw_sizes, listed, marked_words, parts_at, turning
from app.security import inline_scripts
from app.story import SCENES, scenes_of
from slicing.studies.store import bundled_dial

VIEW = DialView(
    "It is </script><b>",
    (
        Size(1000, 0.0, 20.0, " a dog & <i>we"),
        Size(900, 0.1, 25.0, " a cat\n\n<b>we"),
        Size(500, 0.5, 60.0, ""),
    ),
    "made up",
)


def data(view: DialView, may_turn: bool = True, theme: Theme = LIGHT) -> Any:
    (held,) = re.findall(r'data-dial="([^"]*)"', turning(view, theme, may_turn))
    return json.loads(html.unescape(held))


def test_every_size_is_one_that_the_study_measured() -> None:
    run: Any = bundled_dial()
    view = case().dial
    assert view is not None and view.prompt == run.request.prompt
    measured = {each.parameters: each for each in run.result.measurements}
    assert [size.parameters for size in view.sizes] == sorted(measured, reverse=True)
    dense = view.sizes[0].parameters
    for size in view.sizes:
        assert size.perplexity == measured[size.parameters].evaluation.perplexity
        assert size.text == measured[size.parameters].sample.text and size.text.strip()
        assert size.fewer == pytest.approx(1 - size.parameters / dense)
    assert view.sizes[0].label == "dense" and view.sizes[-1].label == "−29\N{NO-BREAK SPACE}%"


def test_another_model_or_other_windows_have_no_dial() -> None:
    told = case()
    evaluation = told.result.evaluation.model_copy(update={"digest": "0" * 16})
    result = told.result.model_copy(update={"evaluation": evaluation})
    other = told._replace(comparison=told.comparison._replace(result=result))
    assert other.dial is None
    assert "Turn the dial" in scenes_of(told)[-1].title and "Turn the dial" not in scenes_of(other)[-1].title


def test_words_that_dense_does_not_write_there_are_marked() -> None:
    found = marked_words(" a cat sat on the big mat", " a dog sat on the mat today")
    assert [word.strip() for word, gone in found if gone] == ["cat", "big"]
    assert "".join(word for word, _ in found) == " a cat sat on the big mat"
    assert parts_at("a b c", "a x c") == 2 and parts_at("a b", "a b c") == 3 and parts_at("a", "a") is None


@given(st.text(), st.text())
def test_no_word_is_lost_and_a_text_differs_from_itself_nowhere(text: str, dense: str) -> None:
    assert [word.strip() for word, _ in marked_words(text, dense)] == text.split()
    assert not any(gone for _, gone in marked_words(text, text))


def test_the_script_is_told_all_of_it_and_the_first_is_unmarked() -> None:
    told = data(VIEW)
    assert [size["turn"] for size in told["sizes"]] == [0.0, 0.2, 1.0]
    assert not any(gone for _, gone in told["sizes"][0]["words"])
    assert told["sizes"][1]["words"] == [[" a", False], [" cat\n<b>we", True]]
    assert told["sizes"][1]["rise"].startswith("+25")
    assert told["open"] and not data(VIEW, may_turn=False)["open"]


def test_no_text_is_markup_and_the_script_may_run() -> None:
    body = re.sub(r"<(style|script)>.*?</\1>", "", turning(VIEW, DARK, True), flags=re.DOTALL)
    assert re.sub(r'="[^"]*"', "", body) == "<div class style data-dial></div>"
    assert SCRIPT in set(inline_scripts())
    assert not re.search(r"<[/\w!]", SCRIPT)  # what cleans the page would drop it
    still = re.sub(r"<style>.*?</style>", "", listed(VIEW), flags=re.DOTALL)
    assert set(re.findall(r"</?(\w+)", still)) == {"div", "p", "dl", "dt", "dd", "b", "mark"}
    assert "<mark>cat\n&lt;b&gt;we</mark>" in still


def test_the_still_picture_has_every_size_and_text() -> None:
    (scene,) = (each for each in SCENES if each.still)
    assert scene.still
    told, view = case(), case().dial
    assert view is not None
    page = html.unescape(re.sub(r"<[^>]*>", "", scene.still(told, LIGHT)))
    for size in view.sizes:
        assert f"{size.perplexity:.2f}" in page
        assert " ".join(size.text.split()[-3:]) in " ".join(page.split())
    chart = draw_sizes(view)
    assert [len(trace.x) for trace in chart.figure.data] == [1, len(view.sizes) - 1]
    assert "38.11" in chart.takeaway

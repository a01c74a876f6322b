"""The speaker's desk tells of the step that is shown, and its code opens that very step."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from told_stand_in import case

from app.security import inline_scripts
from app.story import SCENES
from app.story.desk import KEYS, SCRIPT, alone, code, desk

ADDRESS = "http://lecture.example.org:8501/talk?present=1&step=3"


def told(step: int, address: str = ADDRESS) -> dict[str, Any]:
    (held,) = re.findall(r'data-desk="([^"]*)"', desk(SCENES, step, case(), address, dark=False))
    return json.loads(html.unescape(held))


@pytest.mark.parametrize("step", range(1, len(SCENES) + 1))
def test_it_holds_the_notes_of_its_step_and_what_comes_next(step: int) -> None:
    found, scene = told(step), SCENES[step - 1]
    notes = dict(found["notes"])
    assert (notes["Say"], notes["Ask"]) == (scene.notes.say, scene.question)
    assert "**" not in notes["Answer"] and ":green[" not in notes["Answer"] and notes["Answer"]
    assert found["until"] == sum(each.notes.minutes for each in SCENES[:step])
    following = SCENES[step].title if step < len(SCENES) else "This is the last step."
    assert following in found["next"]


def test_the_code_is_of_the_address() -> None:
    assert told(3)["address"] == ADDRESS
    assert code(ADDRESS).startswith("data:image/svg+xml") and code(ADDRESS) != code(f"{ADDRESS}4")
    assert "works on this machine alone" in alone("http://127.0.0.1:8501/talk")
    assert alone(ADDRESS) == ""


def test_the_script_may_run_and_no_note_is_markup() -> None:
    assert SCRIPT in set(inline_scripts())
    assert not re.search(r"<[/\w!]", SCRIPT)  # what cleans the page would drop it
    body = re.sub(r"<(style|script)>.*?</\1>", "", desk(SCENES, 1, case(), "<b>", True), flags=re.DOTALL)
    assert re.sub(r'data-desk="[^"]*"', "", body) == '<div class="slicescope-desk" hidden ></div>'


def test_what_lies_over_a_dark_slide_is_dark() -> None:
    grounds = [
        re.findall(r"--ground:(#\w+)", desk(SCENES, 1, case(), ADDRESS, dark)) for dark in (False, True)
    ]
    assert grounds == [["#FFFFFF"], ["#12161C"]]


def test_every_key_of_the_list_is_one_that_something_listens_to() -> None:
    listed = {word for keys, _ in KEYS for word in keys.replace(",", "").split()}
    assert {"s", "q", "d", "?"} <= listed
    for key in ("s", "q", "d"):
        assert re.search(rf"\b{key}: state\.\w+", SCRIPT)

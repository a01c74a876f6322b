"""The slides alone answer the five questions of ``teaching.md``, and say where everything comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.story import SCENES, Case, Scene, case_of, scenes_of
from app.wording import without_colours
from slicing.studies.store import bundled_run, find_details

TEACHING = Path(__file__).with_name("teaching.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", TEACHING, re.MULTILINE | re.DOTALL)


def shipped() -> Case:
    run = bundled_run()
    return case_of(run, find_details(run))


def plain(words: str) -> str:
    """What one reads: without marks of Markdown, every gap a space."""
    return " ".join(without_colours(words).replace("*", "").replace("\N{NO-BREAK SPACE}", " ").split())


def slide(scene: Scene, told: Case) -> str:
    """All that stands on a slide as text; its chart, formula and notes are left out."""
    return plain(f"{scene.title}. {scene.sentence(told, scene.setting(told))} {scene.why(told)}")


def test_there_are_five_questions_with_answers_and_facts() -> None:
    assert len(QUESTIONS) == 5
    for question, rest in QUESTIONS:
        answer, *facts = rest.split("\n- ")
        assert question.rstrip().endswith("?") and len(answer.split()) > 20 and len(facts) >= 3


@pytest.mark.parametrize("number", range(5))
def test_the_slides_hold_what_the_answers_need(number: int) -> None:
    told = shipped()
    slides = " ".join(slide(scene, told) for scene in scenes_of(told))
    facts = [fact.strip() for fact in re.findall(r"^- (.+)$", QUESTIONS[number][1], re.MULTILINE)]
    assert [fact for fact in facts if fact not in slides] == []


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_every_slide_names_model_text_and_source(number: int) -> None:
    told, scene = shipped(), SCENES[number]
    source = scene.source(told)
    assert told.model in source and "State of the Union" in source
    assert re.search(r"20\d\d\)|, Findings of .* 20\d\d|Study page", source)


def test_another_plan_is_not_told_what_this_one_does() -> None:
    told = shipped()
    constant = told._replace(comparison=told.comparison._replace(planned="constant"))
    words = " ".join(slide(scene, constant) for scene in scenes_of(constant))
    assert "block 0" not in words.partition("The target")[2].partition("The price")[0].partition("sparing")[2]
    assert "Dynamic slicing predicts" not in words

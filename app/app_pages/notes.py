"""Page: the teacher's notes to the story: what to say, to ask and to expect; made to be printed."""

import streamlit as st

from analysis.errors import SlicescopeError
from analysis.scores import find_score
from app import demo_state, parts, shipped, state, talk_state, wording
from app.story import SCENES, TUNE, Case, Exercise, Scene, case_of, scenes_of
from slicing.plans import Plan
from slicing.studies.store import find_details

_TALK = "app_pages/talk.py"
_PRINT = """<style>@media print {
[data-testid="stHeader"], [data-testid="stPageLink"], [class*="st-key-screen"] { display: none; }
[class*="st-key-note"] { break-inside: avoid; }
.stApp, .stMain, [data-testid="stAppViewContainer"] {
position: static !important; overflow: visible !important; height: auto !important; }
}</style>"""
_READABLE = 860  # px; longer lines are hard to follow


def _which() -> None:
    """Let the speaker choose which of the comparisons that ship the talk tells."""
    told, demos = demo_state.demo_shown("compare"), shipped.comparisons()

    def tell() -> None:
        if name := state.widget("told-of", None):
            demo_state.show_demo(name)

    with st.container(key="screen-which"):
        st.segmented_control(
            "Tell the talk of",
            list(demos),
            default=told if told in demos else None,
            format_func=lambda name: wording.plan_score(demos[name]),
            key="told-of",
            required=bool(told),
            on_change=tell,
            help="The comparisons that ship with slicescope. A run of yours is told from its own page: "
            "open it on the Compare page and press Present.",
        )


def _start(scenes: tuple[Scene, ...]) -> None:
    """The ways into the talk."""
    minutes = sum(step.notes.minutes for step in scenes)
    st.markdown(
        f"{len(scenes)} steps, about {minutes} minutes. Right and Left, or the remote control of a "
        "presenter, move through the talk, Escape leaves it, and ? lists all keys. With predictions each "
        "step asks first, and Right shows the answer."
    )
    with st.container(horizontal=True, key="screen-start"):
        for label, predict in (("Start the talk", False), ("Start with predictions", True)):
            first = talk_state.Talk(1, predict, revealed=not predict)
            st.page_link(
                _TALK,
                label=label,
                icon=":material/slideshow:",
                query_params={**talk_state.without_talk(), **first.parameters()},
            )
        st.page_link(
            "app_pages/slides.py",
            label="Slides to print, or as PDF",
            icon=":material/print:",
            query_params=talk_state.without_talk(),
        )


def _of_plan(exercise: Exercise, case: Case) -> dict[str, str]:
    """Give the score of the plan that is told, where the exercise begins on the page that tunes a plan."""
    tuning = exercise.page == TUNE and case.asked.score != Plan().score
    return {"score": find_score(case.score).title} if tuning else {}


def _note(number: int, step: Scene, case: Case) -> None:
    """One step, for the one who tells it."""
    notes = step.notes
    with st.container(key=f"note-{number}", width=_READABLE):
        st.header(f"{number}. {step.title}")
        st.caption(f":material/timer: {notes.minutes} minutes")
        st.markdown(f"**Shown.** {step.sentence(case, step.setting(case))}")
        if why := step.why(case):
            st.markdown(why)
        st.markdown(f"**Say.** {notes.say}")
        st.markdown(f"**Ask.** {step.question}")
        st.markdown(f"**Answer.** {step.answer(case)}")
        st.markdown(f"**Often got wrong.** {notes.misconception}")
        st.markdown(f"**Exercise.** {notes.exercise.task}")
        with st.container(horizontal=True, key=f"screen-{number}"):
            here = {
                **talk_state.without_talk(),
                **_of_plan(notes.exercise, case),
                **notes.exercise.parameters,
            }
            st.page_link(
                notes.exercise.page, label="Try it", icon=":material/open_in_new:", query_params=here
            )
            place = {**talk_state.without_talk(), **talk_state.Talk(number).parameters()}
            st.page_link(_TALK, label="Show this step", icon=":material/slideshow:", query_params=place)


st.html(_PRINT)
st.title("Notes for teachers")
_which()
shown, told = parts.provenance("compare"), None
try:
    told = case_of(shown.run, find_details(shown.run)) if shown else None
except SlicescopeError as error:
    st.error(state.told(error), icon=":material/error:")
scenes = scenes_of(told) if told else SCENES
_start(scenes)
if told:
    for number, step in enumerate(scenes, start=1):
        _note(number, step, told)

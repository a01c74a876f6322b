"""Page: the slides of the story for paper: one under the other, each a page when they are printed."""

import streamlit as st

from analysis.errors import SlicescopeError
from app import parts, state, talk_state, wording
from app.figures.base import DARK, LIGHT
from app.story import Case, Scene, case_of, scenes_of
from app.story.paper import BUTTON, STYLE, chart, last
from slicing.studies.store import find_details


def _slide(number: int, of: int, step: Scene, case: Case) -> None:
    """One slide: what the talk shows with its answer."""
    with st.container(key=f"slide-{number}"):
        st.header(step.title, anchor=False)
        st.markdown(step.sentence(case, step.setting(case)))
        st.latex(step.formula(case))
        if step.still:
            st.html(step.still(case, LIGHT))
        else:
            drawing = chart(step, case)
            still = {"staticPlot": True}
            st.plotly_chart(
                drawing.figure,
                key=f"paper-{number}",
                theme=None,
                width="content",
                config=still,
                alt=drawing.takeaway,
            )
        with st.container(key=f"why-{number}"):
            if why := step.why(case):
                st.markdown(why)
        st.caption(f"{number} / {of} · {wording.verbatim(step.source(case))}")


st.html(STYLE)
kind = "dark" if parts.theme() is DARK else "light"
primary = st.get_option(f"theme.{kind}.primaryColor")
st.html(f"<style>.slicescope-print {{ background: {primary}; }}</style>")
with st.container(key="screen-head"):
    st.title("Slides to print")
    shown, told = parts.provenance("compare"), None
    st.markdown(
        "Each slide becomes one page. Choose **Save as PDF** as the printer for a file, and switch "
        "background graphics on where your browser asks."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(BUTTON, width="content", unsafe_allow_javascript=True)
        st.page_link("app_pages/notes.py", label="Notes", query_params=talk_state.without_talk())
    try:
        told = case_of(shown.run, find_details(shown.run)) if shown else None
    except SlicescopeError as error:
        st.error(state.told(error), icon=":material/error:")
if told:
    with st.container(key="slides"):
        scenes = scenes_of(told)
        st.html(last(len(scenes)))
        for number, step in enumerate(scenes, start=1):
            _slide(number, len(scenes), step, told)

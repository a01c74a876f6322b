"""The entry script of the app: page configuration, navigation, the strip above every page."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from app import accounts, demo_state, model_state, parts, shipped, state, talk_state, turns
from app.figures.base import DARK
from app.header import header

ICONS = Path(__file__).parent / "icons"
SHRINK = "app_pages/shrink.py"
STUDY = "app_pages/study.py"
TALK = "app_pages/talk.py"
# In streamlit's menu the theme and printing are of use; recording the screen and streamlit's version are not.
MENU = """<style>
:is([data-testid="stMainMenuItem-recordScreencast"], [data-testid="stMainMenuList"] + *) { display: none; }
</style>"""
# The primary colour carries white words on buttons, and no colour that can do that can be read as words on a
# dark page, where streamlit puts it on sliders and chosen segments; these get the colour of links.
ON_DARK = """<style>
:is([data-testid="stSliderThumbValue"], [data-variant="segmented_control"][data-selected="true"]) p {
color: #8AB8EC; }
</style>"""
# What cannot be pressed now is read, too: streamlit writes it at a contrast of 2.6 to 1.
DISABLED = """<style>
:is(button, input, textarea):is(:disabled, [aria-disabled="true"]), button:disabled :is(p, span) {
color: %s; -webkit-text-fill-color: %s; opacity: 1; }
label:has(input:disabled) p { color: %s; }
</style>"""


def _begin() -> None:
    """The bare address opens what one comes for: a smaller model."""
    st.switch_page(SHRINK, query_params=st.query_params.to_dict())


def _moved(name: str) -> Callable[[], None]:
    """An address of slicescope 0.1, which leads to the study page."""

    def lead() -> None:
        demo_state.begin_study(shipped.EARLIER[name])
        st.switch_page(STUDY, query_params=st.query_params.to_dict())

    return lead


def _log_in() -> None:
    """Ask who it is, where the server wants to know; nothing else is shown before."""
    st.title("slicescope")
    for provider in accounts.login_providers():
        label = f"Log in with {provider}" if provider else "Log in"
        st.button(label, key=f"login-{provider}", type="primary", on_click=st.login, args=(provider,))


st.set_page_config(page_title="slicescope", page_icon=ICONS / "favicon.svg", layout="wide")
st.html(MENU)
st.html(DISABLED.replace("%s", "#A9B0B8" if parts.theme() is DARK else "#62686F"))
if accounts.must_log_in():
    _log_in()
    st.stop()
if parts.theme() is DARK:
    st.html(ON_DARK)
state.begin_session()
model_state.begin()
st.logo(str(ICONS / ("logo-dark.svg" if parts.theme() is DARK else "logo-light.svg")), size="large")
page = st.navigation(
    [
        st.Page(_begin, url_path="begin", default=True, visibility="hidden"),
        st.Page(
            SHRINK,
            title="Make it smaller",
            icon=":material/compress:",
            help="Say how small, how long and where it must open, and get the model with what it cost.",
        ),
        st.Page(
            "app_pages/model.py",
            title="Model",
            icon=":material/deployed_code:",
            help="Choose a model, see whether it can be sliced, open and close it.",
        ),
        st.Page(
            "app_pages/profile.py",
            title="Profile",
            icon=":material/bar_chart:",
            help="How much every block changes its input, and so where the model is redundant.",
        ),
        st.Page(
            "app_pages/tune.py",
            title="Tune",
            icon=":material/tune:",
            help="Decide how much to cut where, and see at once what would be left.",
        ),
        st.Page(
            "app_pages/compare.py",
            title="Compare",
            icon=":material/balance:",
            help="What slicing cost: dense, constant and planned slicing on the same text.",
        ),
        st.Page(
            "app_pages/play.py",
            title="Play",
            icon=":material/edit_note:",
            help="One prompt, continued by the dense and by a smaller model side by side.",
        ),
        st.Page(
            STUDY,
            title="Study",
            icon=":material/leaderboard:",
            help="Recipes at equal size, as a map, as a ranking, or as size against loss.",
        ),
        st.Page(
            "app_pages/runs.py",
            title="Runs",
            icon=":material/folder_open:",
            help="Every stored run: open, download, delete.",
        ),
        *([st.Page(st.logout, title="Log out", icon=":material/logout:")] if accounts.logged_in() else []),
        *(st.Page(_moved(name), title=name, url_path=name, visibility="hidden") for name in shipped.EARLIER),
        st.Page(TALK, title="The story, step by step", url_path="talk", visibility="hidden"),
        st.Page("app_pages/notes.py", title="Notes for teachers", url_path="notes", visibility="hidden"),
        st.Page("app_pages/slides.py", title="Slides to print", url_path="slides", visibility="hidden"),
    ],
    position="hidden" if talk_state.presenting() else "top",
)
if talk_state.presenting() != (page.url_path == "talk"):
    st.switch_page(TALK, query_params={**st.query_params.to_dict(), "present": "1"})
state.begin_page(page)
with turns.turn():
    if not talk_state.presenting():
        header(curve=page.url_path != "shrink")
    page.run()
state.end_page()

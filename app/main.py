"""The entry script of the app: page configuration, navigation, the strip above every page."""

from pathlib import Path

import streamlit as st

from app import parts, state
from app.figures.base import DARK
from app.header import header

ICONS = Path(__file__).parent / "icons"
PROFILE = "app_pages/profile.py"
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


def open_first_page() -> None:
    """The bare address opens the profile, where there is something to see."""
    st.switch_page(PROFILE, query_params=st.query_params.to_dict())


def log_in() -> None:
    """Ask who it is, where the server wants to know; nothing else is shown before."""
    st.title("slicescope")
    for provider in state.login_providers():
        label = f"Log in with {provider}" if provider else "Log in"
        st.button(label, key=f"login-{provider}", type="primary", on_click=st.login, args=(provider,))


st.set_page_config(page_title="slicescope", page_icon=ICONS / "favicon.svg", layout="wide")
st.html(MENU)
if state.must_log_in():
    log_in()
    st.stop()
if parts.theme() is DARK:
    st.html(ON_DARK)
state.restore()
st.logo(str(ICONS / ("logo-dark.svg" if parts.theme() is DARK else "logo-light.svg")), size="large")
page = st.navigation(
    [
        st.Page(open_first_page, url_path="begin", default=True, visibility="hidden"),
        st.Page(
            "app_pages/model.py",
            title="Model",
            icon=":material/deployed_code:",
            help="Choose a model, see whether it can be sliced, open and close it.",
        ),
        st.Page(
            PROFILE,
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
            "app_pages/sweep.py",
            title="Sweep",
            icon=":material/grid_on:",
            help="A grid of bases and targets: which one pays, and what it costs.",
        ),
        st.Page(
            "app_pages/contest.py",
            title="Contest",
            icon=":material/trophy:",
            help="Ways to decide where to cut against each other at equal size, and against chance.",
        ),
        st.Page(
            "app_pages/leaderboard.py",
            title="Leaderboard",
            icon=":material/leaderboard:",
            help="Slicing beside removing whole blocks, at equal size: which one for this model and budget.",
        ),
        st.Page(
            "app_pages/runs.py",
            title="Runs",
            icon=":material/folder_open:",
            help="Every stored run: open, download, delete.",
        ),
        *([st.Page(st.logout, title="Log out", icon=":material/logout:")] if state.logged_in() else []),
        st.Page(TALK, title="The story in seven steps", url_path="talk", visibility="hidden"),
        st.Page("app_pages/notes.py", title="Notes for teachers", url_path="notes", visibility="hidden"),
    ],
    position="hidden" if state.presenting() else "top",
)
if state.presenting() != (page.url_path == "talk"):
    st.switch_page(TALK, query_params={**st.query_params.to_dict(), "present": "1"})
with state.turn():
    if not state.presenting():
        header()
    page.run()

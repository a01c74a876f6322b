"""The entry script of the app: page configuration, navigation, the strip above every page."""

from pathlib import Path

import streamlit as st

from app import parts, state
from app.figures import DARK
from app.header import header

ICONS = Path(__file__).parent / "icons"
PROFILE = "app_pages/profile.py"


def begin() -> None:
    """The bare address opens the profile, where there is something to see."""
    st.switch_page(PROFILE, query_params=st.query_params.to_dict())


st.set_page_config(page_title="slicescope", page_icon=ICONS / "favicon.svg", layout="wide")
state.restore()
st.logo(str(ICONS / ("logo-dark.svg" if parts.theme() is DARK else "logo-light.svg")), size="large")
page = st.navigation(
    [
        st.Page(begin, url_path="begin", default=True, visibility="hidden"),
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
            "app_pages/runs.py",
            title="Runs",
            icon=":material/folder_open:",
            help="Every stored run: open, download, delete.",
        ),
    ],
    position="top",
)
header()
page.run()

"""Page: every stored run: open it in another page, download it, delete it."""

import streamlit as st

from analysis.errors import StorageError
from app import state, wording
from app.tables import run_table
from slicing.runs import CompareResult, Run, delete_run, list_runs

COLUMNS = {
    **{name: st.column_config.NumberColumn(format="%.2f") for name in ("dense", "constant", "planned")},
    "SP, %": st.column_config.NumberColumn(format="%.0f"),
    "SB, %": st.column_config.NumberColumn(format="%.0f"),
    "vs constant, %": st.column_config.NumberColumn(format="%+.1f"),
    "model": st.column_config.TextColumn(width="medium"),
    "text": st.column_config.TextColumn(width="medium"),
    "made": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm"),
}


@st.dialog("Delete this run?")
def confirm_deletion(run: Run) -> None:
    """Ask before the folder goes."""
    st.markdown(f"{wording.run_line(run)}. A slice run's model goes with it; this cannot be undone.")
    if st.button("Delete", type="primary", icon=":material/delete:", key="really"):
        try:
            delete_run(run.key)
        except StorageError as error:
            st.error(str(error), icon=":material/error:")
            return
        st.rerun()


def actions(run: Run) -> None:
    """What can be done with the selected run."""
    st.markdown(f"**{wording.run_line(run)}**")
    with st.container(horizontal=True):
        if st.button("Open its profile", icon=":material/bar_chart:"):
            state.show("profile", run.key)
            st.switch_page("app_pages/profile.py")
        if st.button("Tune on it", icon=":material/tune:"):
            state.show("profile", run.key)
            st.switch_page("app_pages/tune.py")
        if isinstance(run.result, CompareResult) and st.button(
            "Open the comparison", icon=":material/balance:"
        ):
            state.show("compare", run.key)
            st.switch_page("app_pages/compare.py")
        st.download_button(
            "Download run.json",
            run.to_json(),
            file_name=f"{run.key}.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        if st.button("Delete", icon=":material/delete:"):
            confirm_deletion(run)


st.title("What has been run?")
st.markdown("One folder per recipe: the same recipe, from here or from the command line, is the same run.")
try:
    stored, broken = list_runs()
except StorageError as error:
    stored, broken = [], [str(error)]
if stored:
    selected = st.dataframe(
        run_table(stored),
        hide_index=True,
        column_config=COLUMNS,
        on_select="rerun",
        selection_mode="single-row-required",
        key="runs",
        placeholder="",
        alt=f"{len(stored)} stored runs, newest first.",
    )
    rows = selected["selection"]["rows"]
    actions(stored[rows[0] if rows and rows[0] < len(stored) else 0])
else:
    st.info("No runs are stored yet: measure a profile, and it appears here.")
    st.page_link("app_pages/profile.py", label="Go to Profile", icon=":material/bar_chart:")
for sentence in broken:
    st.warning(sentence, icon=":material/broken_image:")

"""Page: every stored run: look at several together, name, carry, delete and take back."""

from typing import Any

import streamlit as st

from analysis.errors import SlicescopeError, StorageError, visible
from app import controls, parts, plan_form, shipped, state, trash, wording
from app.figures.plan import draw_schedules
from app.figures.profile import draw_overlay
from app.planned import plan_asked
from app.side_by_side import show_windows
from app.tables import overlay_table, run_table, together_table, widths_table
from slicing.library import (
    LABEL_LENGTH,
    LARGEST,
    NOTE_LENGTH,
    annotate,
    bring_in,
    note_of,
    take_back,
    throw_away,
)
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.results import Run
from slicing.studies.store import Broken, list_runs, summaries
from slicing.studies.verdicts import Comparison, read_comparison

_TOGETHER = 4  # more lines in one chart cannot be told apart
_COLUMNS = {
    **{name: st.column_config.NumberColumn(format="%.2f") for name in ("dense", "constant", "planned")},
    "SP, %": st.column_config.NumberColumn(format="%.0f"),
    "SB, %": st.column_config.NumberColumn(format="%.0f"),
    "vs constant, %": st.column_config.NumberColumn(format="%+.1f"),
    "name": st.column_config.TextColumn(width="medium"),
    "model": st.column_config.TextColumn(width="medium"),
    "text": st.column_config.TextColumn(width="medium"),
    "made": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm"),
}


def _look(run: Run, name: str = "") -> None:
    """The pages that show the run; ``name`` is that of a run that ships."""
    places = [
        ("Open its profile", "profile", ":material/bar_chart:"),
        ("Tune on it", "tune", ":material/tune:"),
    ]
    if "compare" in state.views_of(run.request):
        places.append(("Open the comparison", "compare", ":material/balance:"))
    if "study" in state.views_of(run.request):
        places.append(("Open the study", "study", ":material/leaderboard:"))
    if "shrink" in state.views_of(run.request):
        places.insert(0, ("Open the answer", "shrink", ":material/compress:"))
    plan = _plan_of(run)
    for label, page, icon in places:
        tuned = plan if page == "tune" else None
        taking: dict[str, Any] = {"on_click": plan_form.take, "args": (tuned,)} if tuned else {}
        if st.button(label, icon=icon, key=f"{page}-{name}" if name else None, **taking):
            state.show_run("profile" if page == "tune" else page, name or run.key)  # type: ignore[arg-type]
            st.switch_page(f"app_pages/{page}.py", query_params=plan_form.link_of(tuned) if tuned else None)


def _plan_of(run: Run) -> Plan | None:
    """Find the plan that a comparison is of, for the Tune page; ``None`` where it cannot be set there."""
    comparing = run.request.kind == "study" and run.request.view == "comparison"
    plan = plan_asked(run.request) if comparing else None
    return plan if plan and plan.allocation in plan_form.BY_HAND else None


def _delete(key: str, title: str) -> None:
    """Move the run into the trash; only in a callback."""
    try:
        trash.remember_trash(throw_away(key), title)
    except StorageError as error:
        trash.complain(str(error))


def _undo(name: str) -> None:
    """Take a run out of the trash; only in a callback."""
    try:
        take_back(name)
        trash.forget_trash()
    except StorageError as error:
        trash.complain(str(error))


def _actions(run: Run) -> None:
    """What can be done with one run."""
    st.markdown(f"**{wording.verbatim(state.run_title(run))}**")
    if text := note_of(run.key).text:
        st.text(visible(text))
    if run.result.kind == "shrink":
        st.markdown(wording.verbatim(wording.answer(run.result)))
    with st.container(horizontal=True):
        _look(run)
        parts.downloads(run)
        if state.policy().may_delete:
            with st.popover("Name and note", icon=":material/edit_note:"):
                _naming(run)
            st.button(
                "Delete", icon=":material/delete:", on_click=_delete, args=(run.key, state.run_title(run))
            )


def _broken_actions(run: Broken) -> None:
    """Why a run cannot be read, and what can be done with its folder."""
    st.warning(wording.verbatim(run.problem), icon=":material/broken_image:")
    if state.policy().may_delete:
        st.button("Delete", icon=":material/delete:", on_click=_delete, args=(run.name, f"Run {run.name}"))


def _naming(run: Run) -> None:
    """What to call the run, and what to remember about it."""
    note = note_of(run.key)
    with st.form(f"note-{run.key}", border=False):
        label = st.text_input(
            "Name", note.label, max_chars=LABEL_LENGTH, placeholder=wording.title(run.request)
        )
        text = st.text_area("Note", note.text, max_chars=NOTE_LENGTH)
        if st.form_submit_button("Keep", type="primary"):
            try:
                annotate(run.key, note.renamed(label.strip(), text.strip()))
            except StorageError as error:
                st.error(state.told(error), icon=":material/error:")
                return
            st.rerun()


def _together(runs: list[Run]) -> None:
    """Several runs in one chart each: scores over relative depth, slices, perplexities."""
    name = controls.score("shown", *(run.result.profile for run in runs))
    titles = state.distinct_titles(runs)
    profiles = [(title, run.result.profile) for title, run in zip(titles, runs, strict=True)]
    st.header("Profiles")
    parts.chart(draw_overlay(profiles, name, theme=parts.theme()), "together", overlay_table(profiles, name))
    schedules = [
        (title, schedule)
        for title, run in zip(titles, runs, strict=True)
        if (schedule := _schedule_of(run)) is not None
    ]
    if schedules:
        st.header("What was cut where")
        parts.chart(draw_schedules(schedules, parts.theme()), "together-cut", widths_table(schedules))
    compared = [
        (title, found)
        for title, run in zip(titles, runs, strict=True)
        if (found := _comparison_of(run)) is not None
    ]
    if compared:
        st.header("Perplexities")
        parts.rows(together_table(compared), "together-perplexities")
        if len({found.result.evaluation.digest for _, found in compared}) > 1:
            st.caption("Measured on different texts or windows: these perplexities are not comparable.")


def _schedule_of(run: Run) -> SlicingSchedule | None:
    """The planned schedule of a run that has one."""
    if run.result.kind == "compress":
        return run.result.schedule
    found = _comparison_of(run)
    return found.measured[found.planned].schedule if found else None


def _comparison_of(run: Run) -> Comparison | None:
    """Read a run as a comparison; ``None`` where it is none."""
    if run.request.kind == "study" and run.result.kind == "study" and run.request.view == "comparison":
        return read_comparison(run.request, run.result)
    return None


def _shipped() -> None:
    """The comparisons that ship, each with how unequally its plan cuts and the pages that show it."""
    st.header("Runs that ship with slicescope")
    st.markdown(
        "Both are of the same model on the same windows. They differ in the score that the plan goes by."
    )
    for name, run in shipped.comparisons().items():
        found = _comparison_of(run)
        with st.container(border=True, key=f"ships-{name}"):
            title = wording.unparted(wording.title(run.request))
            st.markdown(f"**{wording.plan_score(run)}** · {wording.verbatim(title)}")
            if found:
                st.caption(
                    f"{wording.spread_of_cut(found)} {wording.without_colours(wording.verdict(found))}"
                )
            with st.container(horizontal=True, vertical_alignment="center"):
                _look(run, name)
                if found:
                    st.page_link(
                        "app_pages/talk.py",
                        label="Present",
                        icon=":material/present_to_all:",
                        query_params={"present": "1", "compare": name},
                    )


def _import_form() -> None:
    """A run from elsewhere."""
    with st.popover("Import", icon=":material/upload_file:"):
        given = st.file_uploader(
            "A run's zip file, or its run.json", type=["zip", "json"], key="import", max_upload_size=20
        )
        if given is not None and st.button("Store it", type="primary"):
            try:
                content = given.getvalue()
                run = bring_in(content[: LARGEST + 1], f"'{given.name}'")
            except SlicescopeError as error:
                st.error(state.told(error), icon=":material/error:")
                return
            state.note_made(run.key)
            st.rerun()


st.title("What has been run?")
st.markdown("One folder per request: the same request, from here or from the command line, is the same run.")
try:
    listed = [each for each in summaries()[0] if state.may_list(each.name)]
except StorageError:  # which is told below
    listed = []
with st.container(horizontal=True, vertical_alignment="center"):
    trials = st.toggle(
        "Show the trials of studies", key="trials", disabled=all(each.kind != "trial" for each in listed)
    )
    if state.policy().may_import:
        _import_form()
if thrown := trash.last_trash():
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(f"Deleted: {wording.verbatim(thrown[1])}", icon=":material/delete:")
        st.button("Undo", icon=":material/undo:", on_click=_undo, args=(thrown[0],), key="undo-delete")
if complaint := trash.complaint():
    st.error(state.told(complaint), icon=":material/error:")
try:
    found, unreadable = list_runs(but=() if trials else ("trial",))
except StorageError as error:
    found, unreadable = [], []
    st.warning(state.told(error), icon=":material/broken_image:")
shown = [run for run in found if state.may_list(run.key)]
broken = [
    each._replace(problem=state.policy().tell(each.problem))
    for each in unreadable
    if state.may_list(each.name)
]
everyone = [*shown, *broken]
if everyone:
    selected = parts.rows(
        run_table(shown, [note_of(run.key).label for run in shown], broken),
        "runs",
        column_config=_COLUMNS,
        on_select="rerun",
        selection_mode="multi-row",
        placeholder="",
        alt=f"{len(everyone)} stored runs, newest first.",
    )
    chosen = [everyone[row] for row in selected["selection"]["rows"] if row < len(everyone)]
    if len(chosen) < 2:
        one = chosen[0] if chosen else everyone[0]
        if isinstance(one, Broken):
            _broken_actions(one)
        else:
            _actions(one)
        st.caption("Select two to four rows to see them together.")
    elif len(chosen) > _TOGETHER:
        st.warning(f"{len(chosen)} runs are selected: choose {_TOGETHER} at most to see them together.")
    elif len(runs := [each for each in chosen if isinstance(each, Run)]) < len(chosen):
        st.warning("One of these runs cannot be read: select the others to see them together.")
    else:
        _together(runs)
        if len(runs) == 2:
            show_windows(*sorted(runs, key=lambda run: run.created))
else:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(
            "No runs are stored yet: measure a profile, and it appears here. Below are the comparisons that "
            "ship; the studies that ship are on the Study page.",
            icon=":material/info:",
        )
        st.page_link("app_pages/profile.py", label="Go to Profile", icon=":material/bar_chart:")
_shipped()

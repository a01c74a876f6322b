"""The strip above every page: the model of the session, the memory, and a bar with the job that runs.

The bar stays under the navigation, however far one scrolls. Knows nothing about what the jobs compute.
"""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import model_state, model_switch, parts, shrink_state, state, wording
from app.engine import Report
from app.figures.base import DARK
from app.job import Job

BUSY, IDLE = 1.0, 5.0
"""Seconds between looks at the worker, with and without a job."""
STYLE = """<style>
.st-key-job { position: fixed; top: 3.75rem; left: 0; right: 0; z-index: 99; gap: 0; background: %s;
  padding: 0.15rem 1rem 0; border-bottom: 1px solid %s; }
.st-key-job [data-testid="stMarkdownContainer"] { margin-bottom: 0; }
.st-key-job p { margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.st-key-job button { min-height: 2rem; padding-top: 0; padding-bottom: 0; }
.st-key-job [data-testid="stProgress"] { padding: 0.1rem 0 0.2rem; }
.st-key-strip:has(.st-key-job) { padding-top: %srem; }
@media (max-width: 640px) { .st-key-strip:has(.st-key-job) { padding-top: %srem; } }
</style>"""
"""Where the bar stands, and how much room the strip leaves for it: in rem, on a screen and on a phone."""
NOTICE = """<style>
.st-key-notice { position: fixed; bottom: 1rem; right: 1rem; z-index: 98;
  width: min(28rem, calc(100vw - 2rem)); background: %s; border: 1px solid %s; border-radius: 0.4rem;
  padding: 0.5rem; gap: 0.5rem; box-shadow: 0 0.3rem 1.2rem rgba(0, 0, 0, 0.25); }
.st-key-notice p { font-size: 0.875rem; }
[data-testid="stMain"]:has(.st-key-notice) { scroll-padding-bottom: 14rem; }
</style>"""
"""What failed or was cancelled is told in the lower corner of the screen: who has scrolled down sees it too.
It leaves the middle free, where buttons are, and what takes the focus is scrolled clear of it."""
CHARTS = """<style>
@media (hover: none) { .js-plotly-plot .modebar { display: none; } }
.js-plotly-plot:not(:hover, :focus-within) .modebar { opacity: 0; }
</style>"""
"""The buttons of a chart stand over it while a mouse is there, and never where there is none."""
PHONE = """<style>
@media (max-width: 640px) {
  .st-key-resources { gap: 0 0.75rem; }
  .st-key-memory-in-use { display: none; }
}
</style>"""
"""On a phone the strip is one row, or two; the Model page tells the memory there too."""
TITLE = """<style>
.stMainBlockContainer .stHeading h1 { padding: 0 0 0.5rem; }
</style>"""
"""The title stands close to the strip: what a page has to say begins higher on a small screen."""
ROW, NARROW_ROW = 2.4, 3.9
"""Heights of a row of the bar on a screen and on a phone, in rem."""


def header(curve: bool = True) -> None:
    """Draw the strip; it refreshes itself. ``curve``: with the loss of a training, if the page has none."""
    every = BUSY if state.worker().active else IDLE
    st.html(CHARTS)
    st.html(PHONE)
    st.html(TITLE)
    with st.container(key="strip"):
        parts.apart(_strip, every, curve, parts.theme() is DARK, every=every)


def _strip(every: float, curve: bool, dark: bool) -> None:
    """Draw what the strip shows; the page is drawn anew where that is due, as where its charts are ``dark``
    and the browser is not.
    """
    worker = state.worker()
    active = worker.active
    turned = parts.theme_changed(dark)
    if state.settle() or model_state.another_is_open() or turned or (every == BUSY) != bool(active):
        st.rerun()
    done = state.news()
    _resources()  # first, so that its place stays the same when a job begins
    if active:
        _jobs(active)
    elif done:
        _done(done)
    if curve and active and state.may_cancel(active[0]) and (training := shrink_state.training()):
        with st.expander("How the loss falls while it heals", icon=":material/healing:"):
            parts.training(training, "strip-training", height=200)
    for sentence in state.lost_jobs():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(state.told(sentence), icon=":material/restart_alt:")
            st.button("Dismiss", on_click=state.dismiss, key="dismiss-lost")
    if closed := model_state.closed_models():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(" ".join(map(wording.was_closed, closed)), icon=":material/eject:")
            st.button("Dismiss", on_click=model_state.dismiss_closed, key="dismiss-closed")
    if notice := state.notice():
        _notice(notice)


def _resources() -> None:
    """The session's model with its switch, whether it is open, and the memory."""
    report = state.worker().report
    with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="resources"):
        model_switch.switch()
        st.caption(f":material/developer_board: {_openness(report)}", width="content")
        used = "memory not known"
        if found := state.device_memory():
            free, total = found
            used = f"memory {wording.memory(total - free)} of {wording.memory(total)} in use"
        with st.container(key="memory-in-use", width="content"):
            st.caption(f":material/memory: {used}", width="content")
    if problem := model_state.problem():
        st.warning(state.told(problem), icon=":material/error:")


def _openness(report: Report | None) -> str:
    """Say whether the session's model is open and where, or which other one is."""
    if report is None:
        return "starting"
    if report.source is None:
        return f"not open yet, {report.device}"
    where = f"{report.device}, {report.dtype}"
    if model_state.is_current(report.source):
        return f"open on {where}"
    return f"not open: {wording.verbatim(report.source.label)} is, on {where}"


def _bar(rows: int) -> DeltaGenerator:
    """Begin the bar that stays under the navigation, of so many rows."""
    st.html(STYLE % (*_colours(), rows * ROW + 0.6, rows * NARROW_ROW + 0.6))
    return st.container(key="job")


def _colours() -> tuple[str, str]:
    """Colours of what lies over the page: its ground and its edge."""
    kind = "dark" if parts.theme() is DARK else "light"
    ground, edge = (st.get_option(f"theme.{kind}.{name}Color") for name in ("background", "border"))
    return ground, edge


def _jobs(active: tuple[Job, ...]) -> None:
    worker, first = state.worker(), active[0]
    # What is being fetched goes on beside the job that runs, and so is shown beside it.
    fetching = [job for job in active[1:] if job.fetching]
    waiting = [job for job in active[1:] if not job.fetching]
    with _bar(1 + len(fetching) + first.restarted):
        with _row(first):
            if waiting:
                with st.popover(f"{len(waiting)} waiting"):
                    for job in waiting:
                        with st.container(horizontal=True, vertical_alignment="center"):
                            st.markdown(f"{worker.position(job)}. {_title(job)}")
                            _cancel(job, f"cancel-{job.number}")
            if first.stuck and state.may_cancel(first):
                st.button(
                    "Stop now",
                    icon=":material/dangerous:",
                    on_click=worker.stop_now,
                    args=(first,),
                    help="End the computing process at once. The open model is closed with it.",
                )
            else:
                _cancel(first, "cancel")
        st.progress(first.share)
        if first.restarted:
            st.caption("The server was restarted, and this job begins again. Finished trials are kept.")
        for job in fetching:
            with _row(job):
                _cancel(job, f"cancel-{job.number}")
            st.progress(job.share)


def _row(job: Job) -> DeltaGenerator:
    """Begin a row of the bar with what a job is, and how far it is; its buttons follow."""
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    row.markdown(f"**{_title(job)}**", width="stretch")
    told = wording.progress(job, state.worker().position(job))
    row.markdown(wording.verbatim(told), width="content")
    return row


def _cancel(job: Job, key: str) -> None:
    if state.may_cancel(job):
        st.button(
            "Cancel",
            key=key,
            icon=":material/stop:",
            on_click=state.worker().cancel,
            args=(job,),
            disabled=job.cancelling,
        )


def _done(job: Job) -> None:
    """Lead to what a job of this session has made."""
    views = state.views_of(job.task)
    page = views[0] if views else "runs"
    with _bar(1), st.container(horizontal=True, vertical_alignment="center", gap="small"):
        title = wording.verbatim(wording.title(job.task))
        st.markdown(f":material/check: **Done: {title}**", width="stretch")
        if job.key and state.is_at(page):
            st.markdown("It is on this page", width="content")
        elif job.key and st.button("See the result", type="primary", icon=":material/arrow_forward:"):
            state.dismiss_news()
            st.switch_page(f"app_pages/{page}.py")
        st.button("Dismiss", key="dismiss-news", on_click=state.dismiss_news)


def _title(job: Job) -> str:
    """What a job does, as Markdown, and whose it is where it is not this session's."""
    if not state.may_cancel(job):
        return "Someone else's job"
    return wording.verbatim(wording.title(job.task)) + (
        "" if state.is_mine(job) else " · from another session"
    )


def _notice(job: Job) -> None:
    title = wording.verbatim(wording.title(job.task))
    st.html(NOTICE % _colours())
    with st.container(key="notice", horizontal=True, vertical_alignment="center"):
        if job.state == "failed":
            st.error(f"**{title}** failed. {state.told(job.error)}", icon=":material/error:")
        else:
            kept = "what has come is kept for the next time" if job.fetching else "nothing was stored"
            st.info(f"**{title}** was cancelled; {kept}.", icon=":material/info:")
        st.button("Dismiss", on_click=state.dismiss)

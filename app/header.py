"""The strip above every page: the open model, the memory, and the job that runs, with its cancel button.

Knows nothing about what the jobs compute.
"""

from __future__ import annotations

import streamlit as st

from app import parts, shrink_state, state, wording
from app.job import Job

BUSY, IDLE = 1.0, 5.0
"""Seconds between looks at the worker, with and without a job."""


def header(curve: bool = True) -> None:
    """Draw the strip; it refreshes itself. ``curve``: with the loss of a training, if the page has none."""
    if news := state.news():
        st.toast(
            f"Done: {wording.verbatim(wording.title(news.task))}", icon=":material/check:", duration="long"
        )
    every = BUSY if state.worker().active else IDLE
    parts.apart(_strip, every, curve, every=every)


def _strip(every: float, curve: bool) -> None:
    worker = state.worker()
    active = worker.active
    if state.settle() or state.another_is_open() or (every == BUSY) != bool(active):
        st.rerun()
    _resources()
    if active:
        _jobs(active, curve)
    for sentence in state.lost_jobs():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(state.told(sentence), icon=":material/restart_alt:")
            st.button("Dismiss", on_click=state.dismiss, key="dismiss-lost")
    if closed := state.closed_models():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(" ".join(map(wording.was_closed, closed)), icon=":material/eject:")
            st.button("Dismiss", on_click=state.dismiss_closed, key="dismiss-closed")
    if notice := state.notice():
        _notice(notice)


def _resources() -> None:
    report = state.worker().report
    if report and report.source:
        name, where = f"**{wording.verbatim(report.source.label)}**", f"{report.device}, {report.dtype}"
    else:
        name, where = "No model is open", report.device if report else "starting"
    used = "memory not known"
    if found := state.device_memory():
        free, total = found
        used = f"memory {wording.memory(total - free)} of {wording.memory(total)} in use"
    with st.container(horizontal=True, gap="medium"):
        st.caption(f":material/deployed_code: {name}", width="content")
        st.caption(f":material/developer_board: {where}", width="content")
        st.caption(f":material/memory: {used}", width="content")


def _jobs(active: tuple[Job, ...], curve: bool) -> None:
    worker, first = state.worker(), active[0]
    # What is being fetched goes on beside the job that runs, and so is shown beside it.
    fetching = [job for job in active[1:] if job.fetching]
    waiting = [job for job in active[1:] if not job.fetching]
    with st.container(border=True, key="job"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{_title(first)}**", width="stretch")
            if waiting:
                with st.popover(f"{len(waiting)} waiting"):
                    for job in waiting:
                        with st.container(horizontal=True, vertical_alignment="center"):
                            st.markdown(f"{worker.position(job)}. {_title(job)}")
                            if state.may_cancel(job):
                                key = f"cancel-{job.number}"
                                st.button("Cancel", key=key, on_click=worker.cancel, args=(job,))
            if first.stuck and state.may_cancel(first):
                st.button(
                    "Stop now",
                    icon=":material/dangerous:",
                    on_click=worker.stop_now,
                    args=(first,),
                    help="End the computing process at once. The open model is closed with it.",
                )
            elif state.may_cancel(first):
                st.button(
                    "Cancel",
                    key="cancel",
                    icon=":material/stop:",
                    on_click=worker.cancel,
                    args=(first,),
                    disabled=first.cancelling,
                )
        st.progress(first.share, text=wording.progress(first, worker.position(first)))
        if first.restarted:
            st.caption("The server was restarted, and this job begins again. Finished trials are kept.")
        if curve and state.may_cancel(first) and (training := shrink_state.training()):
            with st.expander("How the loss falls while it heals", icon=":material/healing:"):
                parts.training(training, "strip-training", height=200)
        for job in fetching:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{_title(job)}**", width="stretch")
                if state.may_cancel(job):
                    st.button(
                        "Cancel",
                        key=f"cancel-{job.number}",
                        icon=":material/stop:",
                        on_click=worker.cancel,
                        args=(job,),
                    )
            st.progress(job.share, text=wording.progress(job, worker.position(job)))


def _title(job: Job) -> str:
    """What a job does, as Markdown, and whose it is where it is not this session's."""
    if not state.may_cancel(job):
        return "Someone else's job"
    return wording.verbatim(wording.title(job.task)) + (
        "" if state.is_mine(job) else " · from another session"
    )


def _notice(job: Job) -> None:
    title = wording.verbatim(wording.title(job.task))
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.state == "failed":
            st.error(f"**{title}** failed. {state.told(job.error)}", icon=":material/error:")
        else:
            kept = "what has come is kept for the next time" if job.fetching else "nothing was stored"
            st.info(f"**{title}** was cancelled; {kept}.", icon=":material/info:")
        st.button("Dismiss", on_click=state.dismiss)

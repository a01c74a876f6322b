"""The strip above every page: the open model, the memory, and the job that runs, with its cancel button.

Knows nothing about what the jobs compute.
"""

from __future__ import annotations

import streamlit as st

from analysis.device import memory, pick_device
from app import state, wording
from app.jobs import Job

BUSY, IDLE = 1.0, 5.0
"""Seconds between looks at the worker, with and without a job."""


def header() -> None:
    """Draw the strip; it refreshes itself."""
    if news := state.news():
        st.toast(f"Done: {wording.title(news.task)}", icon=":material/check:", duration="long")
    every = BUSY if state.worker().active else IDLE
    st.fragment(_strip, run_every=every)(every)


def _strip(every: float) -> None:
    worker = state.worker()
    active = worker.active
    if state.settle() or (every == BUSY) != bool(active):
        st.rerun()
    _resources()
    if active:
        _jobs(active)
    if notice := state.notice():
        _notice(notice)


def _resources() -> None:
    opened = state.worker().open_model
    if opened:
        source, (model, _) = opened
        name, device = f"**{source.label}**", model.device
        where = f"{device}, {str(model.dtype).removeprefix('torch.')}"
    else:
        name, device = "No model is open", pick_device("auto")
        where = str(device)
    free, total = memory(device)
    used = f"memory {wording.memory(total - free)} of {wording.memory(total)} in use"
    with st.container(horizontal=True, gap="medium"):
        st.caption(f":material/deployed_code: {name}", width="content")
        st.caption(f":material/developer_board: {where}", width="content")
        st.caption(f":material/memory: {used}", width="content")


def _jobs(active: tuple[Job, ...]) -> None:
    worker, first = state.worker(), active[0]
    with st.container(border=True, key="job"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{wording.title(first.task)}**", width="stretch")
            if len(active) > 1:
                with st.popover(f"{len(active) - 1} waiting"):
                    for job in active[1:]:
                        with st.container(horizontal=True, vertical_alignment="center"):
                            st.markdown(f"{worker.position(job)}. {wording.title(job.task)}")
                            st.button(
                                "Cancel", key=f"cancel-{job.number}", on_click=worker.cancel, args=(job,)
                            )
            st.button(
                "Cancel",
                key="cancel",
                icon=":material/stop:",
                on_click=worker.cancel,
                args=(first,),
                disabled=first.cancelling,
            )
        st.progress(first.fraction, text=wording.progress(first, worker.position(first)))


def _notice(job: Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.state == "failed":
            st.error(f"**{wording.title(job.task)}** failed. {job.error}", icon=":material/error:")
        else:
            st.info(
                f"**{wording.title(job.task)}** was cancelled; nothing was stored.", icon=":material/info:"
            )
        st.button("Dismiss", on_click=state.dismiss)

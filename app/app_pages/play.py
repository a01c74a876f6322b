"""Page: a prompt, continued by the dense and by the smaller model side by side, token by token."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from analysis.errors import SlicescopeError, visible
from analysis.sources.model import ModelSource
from analysis.values import first_fault
from analysis.writing import Place, Prompt, Who, first_parting
from app import controls, parts, play_state, repeat, state, wording
from app.engine import Play
from app.job import Job
from app.written import read_text, share, shown, written_text
from slicing.studies.requests import PROMPT
from slicing.studies.store import bundled_run
from slicing.studies.verdicts import read_comparison

ALONE, FOLDER = "alone", "folder"
_LOOK = 0.4
"""Seconds between looks at what has come."""
_LONGEST = 2000
"""Characters of a prompt."""


def _chosen() -> tuple[ModelSource, ModelSource | None]:
    """The dense model and the smaller one (``SlicescopeError`` where a folder is none)."""
    kept = {each.key: each for each in play_state.kept_models()}
    typed = [] if state.policy().demo_mode else [FOLDER]
    titles = {key: each.title for key, each in kept.items()}
    titles |= {FOLDER: "Another folder", ALONE: "None: the dense model alone"}
    chosen = st.selectbox(
        "Smaller model",
        [*kept, *typed, ALONE],
        format_func=lambda key: titles[key],
        key="beside",
        bind="query-params",
        help="The kept models of your runs. Each writes beside the dense model that it was made from.",
    )
    if chosen in kept:
        return kept[chosen].model, kept[chosen].smaller
    if chosen == FOLDER and typed:
        source = state.source()
        told = st.text_input(
            "Folder of the smaller model",
            key="beside-folder",
            placeholder="/models/small",
            persist_state="session",
            help=f"A folder that slicescope wrote. It writes beside {source.label}.",
        )
        if not told:
            return source, None
        state.policy().check_path(told.strip())
        return source, play_state.beside(source, Path(told.strip()).expanduser().absolute())
    return state.source(), None


def _how() -> tuple[int, float, int]:
    """How many tokens, and how they are chosen: temperature and seed."""
    with st.expander("Length, temperature", icon=":material/tune:"):
        tokens = controls.number("Tokens to write", "play-tokens", 60, 1, 1000)
        temperature = st.slider(
            "Temperature",
            0.0,
            2.0,
            0.0,
            0.1,
            key="temperature",
            persist_state="session",
            help="0 takes the likeliest token. Above that tokens are drawn; both models draw with the same "
            "luck, so that they part only where they differ.",
        )
        seed = controls.number("Seed of the draw", "play-seed", 0, 0, 2**31 - 1) if temperature else 0
    return tokens, float(temperature), seed


def _set_up(job: Job | None) -> None:
    """The prompt, the models and the button."""
    left, right = st.columns([7, 4], gap="large")
    with left:
        prompt = st.text_area(
            "Prompt", PROMPT, key="play-prompt", max_chars=_LONGEST, height=104, persist_state="session"
        )
    problem = model = smaller = None
    with right:
        try:
            model, smaller = _chosen()
        except SlicescopeError as error:
            problem = state.told(error)
        tokens, temperature, seed = _how()
    task = None
    if model and not problem:
        try:
            asked = Prompt(prompt=prompt or "", new_tokens=tokens, temperature=temperature, seed=seed)
            task = Play(model, smaller, asked)
        except SlicescopeError as error:
            problem = state.told(error)
        except ValidationError as error:
            problem = wording.verbatim(first_fault(error, "the prompt"))
    with left:
        if problem:
            st.warning(problem, icon=":material/warning:")
        _button(task, job)


def _button(task: Play | None, job: Job | None) -> None:
    """Write, or stop what is being written."""
    if job and job.active:
        with st.container(horizontal=True):
            told = "Writing" if job.state == "running" else "Waiting for its turn"
            st.button(told, icon=":material/hourglass_top:", disabled=True, key="writing", width="stretch")
            st.button("Stop", icon=":material/stop:", on_click=state.worker().cancel, args=(job,), key="stop")
        return
    names = "" if task is None else f" with {wording.verbatim(task.model.label)}"
    names += " and the smaller model" if task and task.smaller else ""
    if st.button(
        f"Write{names}",
        type="primary",
        icon=":material/edit_note:",
        key="write",
        width="stretch",
        disabled=not task,
    ):
        assert task, "it cannot be pressed without one"
        try:
            play_state.begin(task)
        except SlicescopeError as error:
            st.error(state.told(error), icon=":material/error:")
        else:
            st.rerun()


def _texts(job: Job, active: bool) -> None:
    """What has come so far of both texts, and what it says."""
    if active and not job.active:
        st.rerun()  # all of the page: its button is another one now
    task = job.task
    assert task.kind == "play", "this page asks for nothing else"
    came = tuple(job.came)
    texts: dict[Who, list[Place]] = {
        who: [said.place for said in came if said.who == who] for who in ("dense", "smaller", "read")
    }
    dense, smaller = texts["dense"], texts["smaller"]
    if job.state == "failed":
        st.error(state.told(job.error), icon=":material/error:")
    elif job.state == "cancelled":
        st.info("It was stopped; this is what had come.", icon=":material/info:")
    if not dense and active:
        st.caption("The first token comes once the models are open.")
    if dense and smaller:
        st.markdown(f"## {wording.parting(dense, smaller, not active)}")
    if dense:
        _beside(task, dense, smaller)
        st.caption(wording.WRITTEN_READING)
    if texts["read"]:
        _read(task, texts["read"])
    if dense and not active:
        with st.expander("The same as a table", icon=":material/table:"):
            parts.rows(_table(dense, smaller, texts["read"]), "play-table")
        if not state.policy().demo_mode:
            with st.expander("Repeat it", icon=":material/terminal:"):
                st.code(repeat.play_command(task), language="bash", wrap_lines=True)


def _beside(task: Play, dense: list[Place], smaller: list[Place]) -> None:
    """Both texts, one beside the other where there is room."""
    parted, prompt = first_parting(dense, smaller), task.prompt.prompt
    made = next((kept.title for kept in play_state.kept_models() if kept.smaller == task.smaller), None)
    told = {"Dense": task.model.label, "Smaller": made or (task.smaller and task.smaller.label) or ""}
    columns = st.columns(2, gap="medium") if task.smaller else [st.container()]
    for column, title, places in zip(columns, ("Dense", "Smaller"), (dense, smaller), strict=False):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{title}** · {wording.verbatim(told[title])}")
            st.html(written_text(prompt, places, parted, f"What the {title.lower()} model writes"))


def _read(task: Play, read: list[Place]) -> None:
    """The smaller model at each place of the dense model's text."""
    st.subheader("What would the smaller model have said at each place of the dense text?")
    st.markdown(wording.agreement(read))
    with st.container(border=True):
        label = "The dense model's text as the smaller model reads it"
        st.html(read_text(task.prompt.prompt, read, label))
    st.caption(wording.READ_READING)


def _table(dense: list[Place], smaller: list[Place], read: list[Place]) -> pd.DataFrame:
    """One row for every place of the texts."""
    rows = []
    for at in range(max(len(dense), len(smaller))):
        row: dict[str, object] = {"place": at + 1}
        for name, places in (("dense", dense), ("smaller", smaller)):
            if at < len(places):
                row |= {
                    f"{name} writes": shown(places[at].piece),
                    f"{name}, %": share(places[at].probability),
                }
        if at < len(read):
            first = read[at].likeliest[0]
            row["smaller would say here"] = shown(first.piece)
            row["to it the dense token has, %"] = share(read[at].probability)
        rows.append(row)
    return pd.DataFrame(rows)


def _example() -> None:
    """Show what the models of the comparison that ships write, before anything was asked for."""
    run = bundled_run()
    assert run.request.kind == "study" and run.result.kind == "study", "a comparison ships"
    found = read_comparison(run.request, run.result)
    st.header("An example, from the comparison that ships")
    fewer = 1.0 - found.measured[found.planned].parameters / found.measured["dense"].parameters
    st.caption(
        f"Both continue “{wording.verbatim(found.study.prompt)}”. The smaller one has "
        f"{wording.percent(fewer)} fewer parameters. Your own appear here, token by token."
    )
    for column, name in zip(st.columns(2, gap="medium"), ("dense", found.planned), strict=True):
        each = found.measured[name]
        with column.container(border=True, height="stretch"):
            kind, title = ("Dense", run.request.model.label) if name == "dense" else ("Smaller", each.title)
            st.markdown(f"**{kind}** · {wording.verbatim(title)}")
            st.text(visible(each.sample.text.strip()) if each.sample else "")


st.title("What do they write?")
st.markdown(wording.ILLUSTRATION)
named = st.session_state.get("beside") == FOLDER and st.session_state.get("beside-folder")
if not state.policy().demo_mode and not play_state.kept_models() and not named:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(
            "No smaller model is kept yet: make one, or name its folder. Until then the dense model writes "
            "alone.",
            icon=":material/info:",
        )
        if st.button("Make one", icon=":material/compress:"):
            st.switch_page("app_pages/shrink.py")
job = play_state.playing()
_set_up(job)
if job:
    st.divider()
    parts.apart(_texts, job, job.active, every=_LOOK if job.active else None)
else:
    _example()

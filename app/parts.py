"""Pieces of page that several pages share: charts with tables, cards, where results come from, the queue.

Knows nothing about any one page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Literal

import pandas as pd
import streamlit as st

from analysis.errors import SlicescopeError, visible
from analysis.profile import LayerProfile
from analysis.scores import find_score
from analysis.storage import runs_folder
from app import controls, demo_state, model_state, model_switch, repeat, shipped, state, wording
from app.cells import UNSEEN, csv, harmless
from app.citations import bibtex
from app.engine import Task
from app.figures.base import DARK, LIGHT, Drawing, Theme
from app.figures.profile import draw_scatter, outliers
from app.figures.shrink import draw_underway
from app.report import build_report
from app.shrink_tables import looks_table
from app.tables import damage_table, text_table
from slicing.healing.looks import Underway
from slicing.library import pack
from slicing.studies.requests import CompressRequest
from slicing.studies.results import Request, Run
from slicing.studies.store import MODEL_FOLDER, folder_of
from slicing.studies.study import Study
from slicing.studies.verdicts import Board, read_board

CHART = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}


def theme() -> Theme:
    """The chart colours that go with the page's background."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def theme_changed(dark: bool) -> bool:
    """Tell whether charts that were drawn for a ``dark`` background, or a light one, stand on the other."""
    return st.context.theme.type is not None and (theme() is DARK) != dark


def follow_theme(dark: bool) -> None:
    """Draw the page anew where charts drawn for a ``dark`` background, or a light one, stand on the other."""
    if theme_changed(dark):
        st.rerun()


Pick = Callable[[dict[str, Any]], None]
"""What to do with the mark of a chart that was clicked on; called before the page is drawn again."""


PickCell = Callable[[int, str], None]
"""What to do with the row of a table that was selected, and with its column where cells are."""


def chart(
    drawing: Drawing,
    key: str,
    table: pd.DataFrame,
    pick: Pick | None = None,
    told_first: bool = False,
    said_already: bool = False,
    pick_cell: PickCell | None = None,
    by: Literal["row", "cell"] = "row",
) -> None:
    """A figure with its takeaway, and the same numbers as a table; both can be taken away.

    ``told_first``: the takeaway stands above, where the figure is too high for a small screen;
    ``said_already``: the page says it beside, so that only a screen reader is told. ``pick_cell`` does for
    the table what ``pick`` does for the figure, ``by`` its rows or its cells.
    """

    def picked() -> None:
        if pick and (point := state.clicked(key)):
            pick(point)

    def selected() -> None:
        if pick_cell and (cell := state.selected_cell(f"{key}-table")):
            pick_cell(*cell)

    pictures = CHART | {"toImageButtonOptions": {"format": state.picture(), "filename": f"slicescope-{key}"}}
    answers: dict[str, Any] = {"on_select": picked, "selection_mode": "points"} if pick else {}
    told = wording.typeset(visible(drawing.takeaway))
    if told_first:
        st.markdown(wording.verbatim(told))
    st.plotly_chart(drawing.figure, key=key, config=pictures, alt=told, **answers)
    if not (told_first or said_already):
        st.caption(wording.verbatim(told))
    # Made only for those who open it: beside every chart, it took a tenth of the time of the first page.
    box = st.expander("The same as a table", icon=":material/table:", key=f"{key}-numbers", on_change="rerun")
    if not box.open:
        return
    with box:
        mode = {"on_select": selected, "selection_mode": f"single-{by}"} if pick_cell else {}
        rows(table, f"{key}-table", alt=told, **mode)
        with st.container(horizontal=True):
            for kind, mime, write in TABLE_FILES:
                st.download_button(
                    kind,
                    partial(write, table),
                    file_name=f"slicescope-{key}.{kind.lower()}",
                    mime=mime,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"{key}-{kind}",
                )


def rows(table: pd.DataFrame, key: str, **options: Any) -> Any:
    """A table alone; ``options`` are those of ``st.dataframe``, whose answer it gives."""
    return st.dataframe(harmless(table, before=UNSEEN), hide_index=True, key=key, **options)


TABLE_FILES: tuple[tuple[str, str, Callable[[pd.DataFrame], bytes]], ...] = (
    ("CSV", "text/csv", csv),
    ("Parquet", "application/vnd.apache.parquet", lambda table: table.to_parquet(index=False)),
)
"""How a table leaves: kind, media type, and what writes it."""


def card(grid: Any, label: str, value: str, change: float | None, note: str) -> None:
    """One number, its change against the dense model where it has one, and a line below."""
    with grid.container(border=True, height="stretch"):
        if change is None:
            st.metric(wording.verbatim(label), value)
        else:
            # Streamlit takes a true minus sign for none, so that colour and arrow are said.
            up = None if abs(change) < 0.0005 else change > 0
            st.metric(
                wording.verbatim(label),
                value,
                wording.percent(change, signed=True),
                delta_color="gray" if up is None else "red" if up else "green",
                delta_arrow="off" if up is None else "up" if up else "down",
                delta_description="vs dense",
            )
        st.caption(note)


def apart(draw: Callable[..., None], *given: Any, every: float | None = None) -> None:
    """Draw as a fragment, which is drawn anew without the rest of the page; ``every`` so many seconds too.

    In a container that is not the fragment's own: streamlit drops what a fragment drew and has not sent yet
    when that is drawn anew. The place it had would be gone, all below it would move up by one, and the next
    drawing would find no place (a white page, on a busy machine).

    What the page before asked for when the browser had left it already (on a busy machine) is drawn as a part
    of that page, so the browser would clear the page that it shows: that is drawn once more.
    """

    @wraps(draw)
    def drawn(*given: Any) -> None:
        draw(*given)
        if now := state.page_shown_now():
            st.switch_page(now.page, query_params=now.query)

    with st.container():
        st.fragment(drawn, run_every=every)(*given)


def ask(make: Callable[[], Task]) -> None:
    """Make a task, queue it and redraw; what is wrong with it is told in place."""
    try:
        state.submit(make())
    except SlicescopeError as error:
        st.error(state.told(error), icon=":material/error:")
        return
    st.rerun()


def doing(make: Callable[[], Task]) -> str | None:
    """Say that this session's task is being done or waits, for its button; ``None`` where it is neither."""
    try:
        task = make()
    except SlicescopeError:
        return None
    alike = (job for job in state.worker().active if job.task == task)
    job = next((job for job in alike if state.owner() in {job.owner, *job.askers}), None)
    return None if job is None else "Running now" if job.state == "running" else "Waiting for its turn"


def start(
    label: str,
    make: Callable[[], Task],
    icon: str,
    primary: bool = True,
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """A button that asks for a task. While that is done the button says so, and takes no other click."""
    if told := doing(make):
        st.button(told, icon=":material/hourglass_top:", disabled=True, width=width, key=f"doing-{label}")
    elif st.button(label, type="primary" if primary else "secondary", icon=icon, width=width):
        ask(make)


def start_form(label: str, make: Callable[[], Task], icon: str) -> bool:
    """The button of a form that asks for a task, and whether it was pressed.

    While that is done the button says so; it can be pressed, since another setting is another task, and what
    is set in a form is known no sooner.
    """
    told = doing(make)
    return st.form_submit_button(
        told or label,
        type="secondary" if told else "primary",
        icon=":material/hourglass_top:" if told else icon,
        help="Change a setting, and press it for another job." if told else None,
        width="stretch",
        key=f"start-{label}",
    )


def warn(request: Request, like: Run) -> None:
    """Show the warnings of a request; ``like``, a run, gives the shape where it is of the same model."""
    try:
        shape = model_state.shape_of(request.model, like)
    except SlicescopeError:  # the form, or the job itself, tells it
        shape = None
    for sentence in request.warnings(shape):
        st.warning(state.told(sentence), icon=":material/warning:")


POLL = 2.0  # seconds between looks at a study that runs


def follow(study: Study, draw: Callable[[Board], None]) -> None:
    """A study that is not done: what has come so far, redrawn while it runs."""
    active = any(job.task == study for job in state.worker().active)
    apart(_unfinished, study, draw, active, every=POLL if active else None)


def _unfinished(study: Study, draw: Callable[[Board], None], active: bool) -> None:
    found = read_board(study)
    st.markdown(f"**{wording.verbatim(wording.title(study))}**")
    st.progress(found.done / found.total, text=f"{found.done} of {found.total} trials are stored")
    if not active and st.button("Resume", type="primary", icon=":material/play_arrow:"):
        ask(lambda: study)
    draw(found)


def training(found: Underway, key: str, height: int) -> None:
    """Draw how the loss falls in a training that runs."""
    chart(draw_underway(found, theme(), height), key, looks_table(found))


def provenance(view: state.View, warned: bool = True) -> state.Shown | None:
    """Say which run a view shows; ``None``, with a sentence and an action, when there is none.

    ``warned``: whether the warnings of the run stand here, and not elsewhere on the page.
    """
    shown = state.shown(view)
    if shown is None:
        st.info("There is nothing to show yet: measure a profile, and it appears here.")
        st.page_link("app_pages/profile.py", label="Go to Profile", icon=":material/bar_chart:")
        return None
    if shown.problem:
        st.warning(shown.problem, icon=":material/info:")
    model_switch.told_of_another(shown.run)
    if warned:
        warn(shown.run.request, shown.run)
    demo = demo_state.demo_shown(view) if shown.bundled and view in ("profile", "compare") else ""
    which = "second demo run" if demo not in ("", shipped.FIRST) else "demo run"
    origin = f"The {which} that ships with slicescope" if shown.bundled else f"Run {shown.run.key}"
    words, actions = st.columns([3, 1], vertical_alignment="center")
    with words:
        told = wording.verbatim(wording.unparted(f"{origin} · {state.run_title(shown.run)}"))
        st.caption(f":material/history: {told}", width="stretch")
    with (
        actions,
        st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right", gap="small"),
    ):
        with st.popover("Take away", icon=":material/download:"):
            downloads(shown.run)
            pictures()
        if "compare" in state.views_of(shown.run.request):
            name = ("" if demo == shipped.FIRST else demo) if shown.bundled else shown.run.key
            named = {"compare": name} if name else {}
            st.page_link(
                "app_pages/talk.py",
                label="Present",
                icon=":material/present_to_all:",
                query_params={"present": "1", **named},
                help="The method step by step, told with this run: arrow keys, big type, nothing else.",
            )
    return shown


def damage_chart(profile: LayerProfile, first_token: bool = False) -> None:
    """Show what the LR score says against the damage that was measured, and the same as a table."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = controls.damage_choice("damage", profile)
        if name is None:
            st.info("No damage was measured here: measure the profile again, with damage.")
            return
        far = sorted({*outliers(profile.values("lr", first_token)), *outliers(profile.values(name))})
        zoomed = bool(far) and st.toggle("Zoom to the other blocks", key="damage-zoom", bind="query-params")
    drawing = draw_scatter(profile, name, first_token, far if zoomed else (), theme())
    chart(drawing, "scatter", damage_table(profile, name, first_token))
    st.caption(find_score(name).about)


def downloads(run: Run) -> None:
    """A run as a report, as files, and what to cite."""
    name, blind = f"slicescope-{run.key}", state.policy().blind
    run = blind(run)
    files: list[tuple[str, Callable[[], str | bytes], str, str]] = [
        ("Report (HTML)", lambda: build_report(run, state.may_list), f"{name}.html", "text/html"),
        ("run.json", run.to_json, f"{name}.json", "application/json"),
        ("BibTeX", lambda: bibtex(run.request), f"{name}.bib", "application/x-bibtex"),
    ]
    if (runs_folder() / run.key).is_dir():
        files.insert(1, ("Run (zip)", partial(pack, run.key, blind), f"{name}.zip", "application/zip"))
    for label, content, file_name, mime in files:
        st.download_button(
            label,
            content,
            file_name=file_name,
            mime=mime,
            icon=":material/download:",
            on_click="ignore",
            key=f"{label}-{run.key}",
        )


def keep(request: CompressRequest) -> None:
    """A model itself: make it, or say where it is. Nothing is kept for strangers."""
    if state.policy().demo_mode:  # where disks and paths are no business of visitors
        return
    folder = folder_of(request) / MODEL_FOLDER
    if folder.is_dir():
        st.markdown(wording.kept_model(plain=not any(folder.glob("modeling_*.py"))))
        st.code(str(folder), language=None, wrap_lines=True)
    elif st.button(
        model_state.button("Make and keep this model", request.model), icon=":material/content_cut:"
    ):
        ask(lambda: request)


def pictures() -> None:
    """In which format the camera above every chart saves it."""
    st.segmented_control(
        "The camera above each chart saves it as",
        ["svg", "png"],
        default=state.picture(),
        format_func=str.upper,
        required=True,
        key="picture",
        persist_state="session",
    )


def reproduction(run: Run) -> None:
    """Show what repeats a run, and everything it depended on."""
    run = state.policy().blind(run)
    command = visible(repeat.command(run.request))
    below = ", with the study file below" if repeat.STUDY_FILE in command else ""
    st.caption(f"The same from the command line{below}:")
    st.code(command, language="bash", wrap_lines=True)
    if run.request.kind == "study" or run.request.kind == "trial" or run.request.kind == "search":
        with st.expander("The study file", icon=":material/description:"):
            text = visible(repeat.study_file(run.request))
            st.code(text, language="toml", wrap_lines=True)
            st.download_button(
                "study.toml",
                text,
                file_name="study.toml",
                mime="application/toml",
                icon=":material/download:",
                on_click="ignore",
                key=f"study-file-{run.key}",
            )
    with st.expander("Request, versions, digests", icon=":material/fingerprint:"):
        where = run.environment
        made = (
            f"Run {run.key}, {run.created:%d %b %Y %H:%M} UTC, took {wording.duration(run.seconds)} on "
            f"{where.device} ({where.device_name}) in {where.dtype} with {where.threads} threads. "
            f"{where.platform}; " + ", ".join(f"{name} {version}" for name, version in where.versions.items())
        )
        st.markdown(wording.verbatim(made))
        rows(text_table(run).drop(columns="passages"), f"texts-{run.key}")
        st.code(visible(run.request.to_json()), language="json")

"""Page: from a wish to a smaller model: what is known of it, what is being tried, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from analysis.errors import SlicescopeError
from analysis.evaluate import perplexity_of
from analysis.storage import runs_folder
from app import parts, shrink_state, state, wish_form, wording
from app.body import body_of, body_table
from app.figures.body import draw_body
from app.figures.healing import draw_healing
from app.figures.shrink import RUNGS, Beside, Point, draw_beside, draw_race
from app.report import build_report
from app.shrink_tables import come_table, finalist_table, option_table, tried_table
from app.tables import healing_table, task_table
from slicing.studies.options import Option
from slicing.studies.requests import ShrinkRequest
from slicing.studies.results import Measurement, Run, ShrinkResult
from slicing.studies.store import MODEL_FOLDER, bundled_board
from slicing.studies.underway import come_so_far
from slicing.wish import Wish

_SHOWN = 7  # options in the chart; all are in its table
# Before anything runs


def _before() -> None:
    """The form, and what is known already of what it says."""
    source, asks = state.source(), shrink_state.may_shrink()
    with st.container(border=True):
        try:
            shape, problem = shrink_state.shape_here(source), None
        except SlicescopeError as error:
            shape, problem = None, state.told(error)
        size = shrink_state.itemsize(source)
        try:
            wish = wish_form.wish_form(shape, size, asks)
        except SlicescopeError as error:
            st.warning(state.told(error), icon=":material/warning:")
            return
        if asks:
            _ask(wish, problem)
        else:
            st.caption(
                "This server makes no models for visitors, since that takes its computer for minutes: below "
                "is what is known already; run slicescope yourself to find more."
            )
    if problem:
        st.warning(problem, icon=":material/block:")
    elif shape is None:
        st.info(
            "This model is not here yet, so nothing is known of it: press the button, and it is fetched.",
            icon=":material/download:",
        )
    else:
        try:
            _known(shrink_state.known(source, wish, shape), wish)
        except SlicescopeError as error:
            st.warning(state.told(error), icon=":material/warning:")


def _ask(wish: Wish, problem: str | None) -> None:
    """All else that can be said, and the button."""
    source = state.source()
    place = st.container()
    with st.expander("Texts, windows, tasks, hoped-for quality", icon=":material/tune:"):
        try:
            wish, fields = wish_form.more(wish)
            request, wrong = ShrinkRequest(model=source, wish=wish, **fields), None
        except SlicescopeError as error:
            request, wrong = None, state.told(error)
    with place:
        label = wording.verbatim(f"Find the best way for {source.label}, in {wish.minutes:g} minutes")
        pressed = st.button(
            label,
            key="find",
            type="primary",
            icon=":material/search:",
            width="stretch",
            disabled=request is None or problem is not None,
        )
    if wrong:
        st.warning(wrong, icon=":material/warning:")
    if request and pressed:
        parts.ask(lambda: request)


def _known(options: Sequence[Option], wish: Wish) -> None:
    """The answer so far in a sentence, the ranked options, and one of them from near."""
    if not options:
        st.info(
            f"Nothing is known yet of {wish.line} for this model: press the button to find a way, or choose "
            "another size.",
            icon=":material/search:",
        )
        return
    st.markdown(f"**{wording.verbatim(wording.known(options, wish))}**")
    lines = {each.recipe.line: each for each in options}
    chart, card = st.columns([7, 4], gap="large")
    with card:
        line = st.selectbox(
            "Look at",
            list(lines),
            key="option",
            format_func=lambda line: f"{list(lines).index(line) + 1}. {lines[line].recipe.title}",
        )
        chosen = lines.get(line or "", options[0])
        _card(chosen)
    shown = options[:_SHOWN]

    def pick(point: dict[str, Any]) -> None:
        state.put({"option": shown[point["customdata"]].recipe.line})

    with chart:
        place = shown.index(chosen) if chosen in shown else None
        rows = [_beside(each.recipe.title, each.measured, each.dense) for each in shown]
        parts.chart(draw_beside(rows, place, parts.theme()), "options", option_table(options), pick)
        hidden = f"The table has all {len(options)}. " if len(options) > len(shown) else ""
        st.caption(
            f"{hidden}Click a mark to look at it. Judged by {options[0].measured.evaluation.protocol}."
        )


def _beside(title: str, measured: Measurement, dense: Measurement) -> Beside:
    found = wording.differences(dense, measured)
    ends = found[0].nats_interval
    return Beside(
        title,
        perplexity_of(found[0].nats),
        ends and (perplexity_of(ends[0]), perplexity_of(ends[1])),
        perplexity_of(found[1].nats) if len(found) > 1 else None,
    )


def _card(option: Option) -> None:
    """One option: what to do with it, what it is, and what it costs."""
    measured, dense = option.measured, option.dense
    st.code(option.recipe.line, language=None, wrap_lines=True)
    request = option.trial.compress_request().model_copy(update={"model": state.source()})
    with st.container(horizontal=True):
        parts.keep(request)
        if option.key == bundled_board().key:
            icon, show = ":material/leaderboard:", shrink_state.show_card
            if st.button("Its card on Study", icon=icon, on_click=show, args=(option,)):
                st.switch_page("app_pages/study.py")
    drawn, found = wording.draws(option.draws), measured.evaluation.perplexity
    told = f"Perplexity **{found:.2f}** ({drawn}, {option.times:.2f} times dense)"
    if measured.other and option.other_times:
        told += f", **{measured.other.perplexity:.2f}** ({option.other_times:.2f} times) on the second text"
    gone = wording.percent(1.0 - measured.parameters / dense.parameters)
    flops = wording.percent(1.0 - measured.flops_per_token / dense.flops_per_token)
    st.markdown(
        f"{told}. {gone} fewer parameters, {flops} fewer FLOPs, {wording.memory(measured.bytes)}; "
        f"{wording.duration(option.seconds)} to make where it was made."
    )
    st.markdown(wording.opened(option.recipe.opens_everywhere))


# While it runs


def _underway(request: ShrinkRequest, active: bool) -> None:
    """Show what has come so far; the page draws it again while the job runs."""
    job = next((each for each in state.worker().active if each.task == request), None)
    if active and job is None:
        st.rerun()  # all of the page: it has ended
    come = come_so_far(request)
    now = list(RUNGS).index(job.phase) + 1 if job and job.phase in RUNGS else 0
    for place, (column, title) in enumerate(zip(st.columns(3, gap="medium"), RUNGS, strict=True), 1):
        with column.container(border=True, height="stretch"):
            here = [each for each in come if each.rung == place]
            _rung(title, here, job if now == place else None, place < now)
    if training := shrink_state.training():
        st.markdown("**How the loss falls while it heals**")
        st.progress(training.used, text=f"{wording.percent(training.used)} of the time for healing is used")
        parts.training(training, "training", height=300)
    if come:
        points = [Point(each.rung, each.line, each.nats) for each in come]
        parts.chart(draw_race(points, parts.theme()), "race", come_table(come))
        st.caption(wording.TRIED_READING)
    elif active:
        st.caption("The first preview comes once the model is open and its text is read.")


_ABOUT = {
    "Previews": "Every method, quickly, on few windows.",
    "Full forms": "The best of them, with their strongest repairs.",
    "Finalists": "The best of these, healed in the time that is left, and judged on the evaluation texts.",
}


def _rung(title: str, come: Sequence[Any], job: Any, over: bool) -> None:
    """One rung: how many have come, and the best of them."""
    icon = "check_circle" if over else "pending" if job else "schedule"
    st.markdown(f":material/{icon}: **{title}**")
    total = f" of {job.total}" if job and job.total > 1 else ""
    st.markdown(f"{len(come)}{total} tried" if come or job else "waits")
    if come:
        best = min(come, key=lambda each: each.nats)
        st.caption(f"Least loss so far: {best.nats:.3f}, {wording.verbatim(best.line)}")
    else:
        st.caption(_ABOUT[title])


def _follow(request: ShrinkRequest) -> None:
    """A wish that is not done."""
    active = any(job.task == request for job in state.worker().active)
    if not active:
        st.header(wording.verbatim(wording.title(request)))
        st.info("This was stopped. What has come is kept and is not made again.", icon=":material/pause:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if active:
            st.markdown("What has come so far. Closing this page stops nothing.", width="stretch")
        elif st.button("Go on", type="primary", icon=":material/play_arrow:"):
            parts.ask(lambda: request)
        st.button("Another wish", icon=":material/add:", on_click=shrink_state.begin_anew)
    parts.apart(_underway, request, active, every=parts.POLL if active else None)


# What came of it


def _after(run: Run, request: ShrinkRequest, result: ShrinkResult) -> None:
    """The answer, what to do with it, and its evidence."""
    first, *rest = wording.shrunk(request, result)
    with st.container(border=True):
        st.header(wording.verbatim(first), anchor=False)
        evidence, home = st.columns([7, 5], gap="large")
        with evidence:
            st.markdown("\n".join(f"- {wording.verbatim(sentence)}" for sentence in rest))
        with home:
            _take_home(run)
    parts.provenance("shrink")
    measured = result.measurement
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("The finalists beside dense")
        rows = [_beside(each.recipe.title, each.measurement, result.dense) for each in result.finalists]
        parts.chart(draw_beside(rows, None, parts.theme()), "finalists", finalist_table(result))
    with right if measured.healed else st.container():
        _healing(measured)
    with st.container() if measured.healed else right:
        _body(result)
    if (scores := task_table([result.dense, *(each.measurement for each in result.finalists)])) is not None:
        st.subheader("What they score on tasks")
        parts.rows(scores, "shrink-tasks")
    st.subheader("What was tried")
    points = [Point(each.rung, each.line, each.nats) for each in result.tried if each.nats is not None]
    parts.chart(draw_race(points, parts.theme()), "race", tried_table(result))
    st.caption(wording.TRIED_READING)
    st.subheader("Repeat it, keep it")
    parts.reproduction(run)


def _healing(measured: Measurement) -> None:
    """How the loss fell where the winner was trained."""
    if measured.healed:
        st.subheader("How it was healed")
        parts.chart(draw_healing(measured.healed, parts.theme()), "healing", healing_table(measured.healed))


def _body(result: ShrinkResult) -> None:
    """Where the winner was cut that blocks are taken out of, or that is cut inside them."""
    measured = result.measurement
    if measured.inner or measured.layout:
        st.subheader("Where it was cut")
        boxes = body_of(result.shape, measured.inner, measured.layout, measured.schedule)
        parts.chart(draw_body(boxes, parts.theme()), "shrink-body", body_table(boxes))
        st.caption(wording.BODY_READING)


def _take_home(run: Run) -> None:
    """The report in one click, where the model is, and how to pass it on."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download the report",
            partial(build_report, state.policy().blind(run)),
            file_name=f"slicescope-{run.key}.html",
            mime="text/html",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
            key="report",
        )
        st.button("Another wish", icon=":material/add:", on_click=shrink_state.begin_anew)
    folder = runs_folder() / run.key / MODEL_FOLDER
    if state.policy().demo_mode:  # where disks and paths are no business of visitors
        return
    if not folder.is_dir():
        st.caption("The model is not kept here any more: repeat the run to have it again.")
        return
    st.markdown("The model and its card are in this folder, which the Model page opens:")
    st.code(str(folder), language=None, wrap_lines=True)
    st.caption("To pass it on to other tools, as a Hugging Face folder or for llama.cpp:")
    st.code(
        f"slicescope export {run.key} --to hf --out small\n"
        f"slicescope export {run.key} --to gguf --out small.gguf",
        language="bash",
        wrap_lines=True,
    )


st.title("Make it smaller")
with st.container(horizontal=True, vertical_alignment="center"):
    st.markdown(
        "Say how small, how long it may take and where it must open: slicescope finds the way, makes the "
        "model, and says what that cost.",
        width="stretch",
    )
    st.page_link("app_pages/model.py", label="Another model", icon=":material/deployed_code:")
shown, trouble = shrink_state.answer()
if trouble:
    st.warning(trouble, icon=":material/info:")
if waiting := shrink_state.underway():
    _follow(waiting)
elif shown and shown.request.kind == "shrink" and shown.result.kind == "shrink":
    _after(shown, shown.request, shown.result)
else:
    parts.apart(_before)

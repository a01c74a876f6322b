"""Page: how much every block changes its input, and so where the model is redundant."""

from contextlib import suppress

import streamlit as st

from analysis.details import LIKENESSES, Details
from analysis.errors import SlicescopeError, StorageError
from analysis.evaluate import at_a_time
from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app import controls, model_state, own, parts, state, wording
from app.coloured import SCRIPT, coloured_text, legend
from app.figures.profile import (
    DAMAGES,
    TokenPath,
    draw_change,
    draw_lens,
    draw_overlay,
    draw_similarity,
    draw_split,
)
from app.figures.tokens import draw_token_path, draw_tokens
from app.planned import plan_asked
from app.side_by_side import show_difference
from app.stream_view import show_stream
from app.tables import lens_table, overlay_table, similarity_table, split_table, token_path_table, token_table
from app.unit_view import show_units
from slicing.library import BLOCK_NOTE_LENGTH, annotate_block, block_notes
from slicing.plans import Plan
from slicing.studies.requests import ProfileRequest, drawn_for
from slicing.studies.results import Run
from slicing.studies.store import find_details

_STYLE = """<style>
@media (max-width: 640px) { .st-key-block-walk > :first-child { flex: 1 1 100%; } }
</style>"""
"""On a phone the list of blocks has a row of its own, or its names are cut off."""
_OVERLAID = 3  # more lines than these and the one shown cannot be told apart


def _measure_form() -> None:
    """What to measure on; the button queues it."""
    own.own_inputs({"profile-text": "Profile"})
    with st.form("profile-form", border=False, enter_to_submit=False):
        left, right = st.columns(2, gap="large")
        with left:
            text = controls.text("Text", "calibration", "profile-text")
            windows = controls.number("Windows", "profile-windows", 8)
            length = controls.number("Window length, tokens", "profile-length", 512, 2, 131072, 64)
            seed = controls.number("Seed", "profile-seed", 0, 0, 2**31 - 1)
        with right:
            bases, damage, lens, units = _extras()
            st.caption(
                "8 windows of 512 tokens are quick and usually enough: the whiskers say whether more are "
                "needed. Another model is chosen on the Model page."
            )

        def asked() -> ProfileRequest:
            return ProfileRequest(
                model=state.source(),
                text=TextSource.parse(text, "calibration"),
                windows=windows,
                drawn=drawn_for(windows),
                window_length=length,
                seed=seed,
                bases=bases,
                probes=DAMAGES if damage else (),
                lens=lens,
                units=units,
            )

        like = state.shown("profile")
        label = model_state.button("Measure", state.source(), like.run if like else None)
        pressed = parts.start_form(label, asked, ":material/query_stats:")

    if pressed:
        parts.ask(asked)
    elif like and model_state.is_current(like.run.request.model):
        with suppress(SlicescopeError):  # a text that is none is told when it is asked for
            parts.warn(asked(), like.run)


def _extras() -> tuple[bool, bool, bool, bool]:
    """Ask what to measure beside the scores: bases, damage, the logit lens, units."""
    bases = st.toggle(
        "Keep the bases, for previews",
        value=True,
        key="profile-bases",
        help="The same pass also finds the directions the stream lives in. With them the Tune page shows "
        "a perplexity for every plan within seconds. Takes D × D × 4 bytes for every sub-layer (80 MB "
        "for the demo model).",
    )
    damage = not state.policy().demo_mode and st.toggle(
        "Measure damage too",
        key="profile-damage",
        help="How much the loss rises without each block, and with a quarter of its width cut: what the "
        "scores are to foretell. Takes about twenty times as long, for each of the two.",
    )
    lens = st.toggle(
        "Measure the logit lens too",
        key="profile-lens",
        help="The loss when the head follows straight after each block: how early the model knows what "
        "it will say. Takes about ten times as long.",
    )
    units = st.toggle(
        "Cost of units too",
        key="profile-units",
        help="What each part inside the blocks costs, predicted from one pass forward and one back: "
        "channels, heads of keys and values, value ranks, whole attentions and MLPs. Takes about ten "
        "times as long.",
    )
    return bases, damage, lens, units


def _draw(run: Run) -> None:
    """How much every block changes its input, and beside it the tokens of one block."""
    profile = run.result.profile
    for sentence in profile.warnings():
        st.warning(sentence, icon=":material/warning:")
    try:
        details, damaged = find_details(run), None
    except StorageError as error:
        details, damaged = None, state.told(error)
    chart, near = st.columns([3, 2], gap="large")
    with chart, st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = controls.score("shown", profile, usual=_decides(run))
        first_token = st.toggle(
            "Count the first token",
            key="shown-first",
            bind="query-params",
            help="The first token of a window behaves unlike the others. One measurement holds both views.",
        )
    with near:
        block = _block(profile)
        path = None
        if details:
            window, place = _text(details, block)
            path = TokenPath.of(details, window, place)
        else:
            st.info(damaged or "This run was stored without its tokens: measure it again to see them here.")
        _note(run, block)
    with chart:
        drawing = draw_change(profile, name, first_token, block, parts.theme(), path, block_notes(run))
        table = profile.to_frame(first_token).round(4)
        parts.chart(drawing, "profile", table, pick=lambda point: state.choose_block(int(point["x"])))
        st.caption(
            f"{wording.change_reading(name)} {wording.verbatim(profile.text)}, "
            f"{wording.profiled(run.request)}{at_a_time(profile.batch)}. Whiskers: standard deviation over "
            f"windows. Score: {SCORES[name].source}. Click a block to see its tokens, or walk with the "
            "arrow keys."
        )


def _decides(run: Run) -> str:
    """Name the score that the run's plan goes by, which is looked at first; the usual one without a plan."""
    plan = plan_asked(run.request) or Plan()
    return run.result.profile.held(plan.score)


def _block(profile: LayerProfile) -> int:
    """The block that is looked at from near: by name, by a click on the chart, or with the arrow keys."""
    st.html(_STYLE)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="block-walk"):
        block = controls.block(profile)
        for label, key, to in (("Back", "Left", block - 1), ("Next", "Right", block + 1)):
            st.button(
                label,
                key=f"block-{label}",
                icon=f":material/arrow_{'back' if to < block else 'forward'}:",
                shortcut=key,
                on_click=state.choose_block,
                args=(to,),
                disabled=not 0 <= to < profile.blocks,
            )
    return block


def _text(details: Details, block: int) -> tuple[int, int]:
    """The tokens of a window, coloured by how much the block changes each; gives which one is chosen."""
    windows, length = details.tokens.shape
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        window = min(controls.number("Window", "token-window", 0, 0, windows - 1), windows - 1)
        usual = details.strongest(window, block)
        told = "Its path through all blocks is the line in the chart. Or click on a token in the text."
        place = min(controls.number("Token", "token-place", usual, 0, length - 1, help_text=told), length - 1)
    st.markdown(f"**Window {window}, as block {block} changes it**")
    st.html(coloured_text(details, window, block, parts.theme(), place))
    st.html(f"<script>{SCRIPT}</script>", unsafe_allow_javascript=True)  # apart from texts of others
    st.caption(legend(details, block))
    return window, place


def _note(run: Run, block: int) -> None:
    """The note on the block that is looked at, and where it is written; of a run that is stored here."""
    text = block_notes(run).get(block, "")
    if text:
        st.markdown(f":material/edit_note: **Block {block}:** {wording.verbatim(text)}")
    if not state.policy().may_delete or not (runs_folder() / run.key).is_dir():
        return
    with (
        st.popover(f"Note on block {block}", icon=":material/edit_note:"),
        st.form("block-note", border=False, enter_to_submit=False),
    ):
        said = st.text_input(
            f"What to remember about block {block}",
            text,
            max_chars=BLOCK_NOTE_LENGTH,
            key=f"block-note-{run.key}-{block}",
        )
        if st.form_submit_button("Keep the note", type="primary"):
            try:
                annotate_block(run.key, block, said)
            except StorageError as error:
                st.error(state.told(error), icon=":material/error:")
                return
            st.rerun()


def _tokens(details: Details, profile: LayerProfile) -> None:
    """The token that was chosen above on its path through depth, and the distribution over tokens."""
    block = int(state.widget("block", 0))
    windows, length = details.tokens.shape
    window = min(int(state.widget("token-window", 0)), windows - 1)
    place = min(int(state.widget("token-place", 0)), length - 1)
    drawing = draw_token_path(details, window, place, block, parts.theme())
    parts.chart(drawing, "token-path", token_path_table(details, window, place))
    parts.chart(draw_tokens(details, block, parts.theme()), "tokens", token_table(details, window, block))


def _similarity(details: Details) -> None:
    """How alike the stream is at every two depths."""
    by = controls.likeness(details)
    st.markdown(LIKENESSES[by].description)
    depths = len(details.similarity)
    pair = state.depth_pair(depths)
    drawing = draw_similarity(details, pair, parts.theme(), by)
    map_, answer = st.columns([3, 2], gap="large")
    with map_:
        parts.chart(
            drawing,
            "similarity",
            similarity_table(details, by),
            pick=lambda point: state.choose_pair((int(point["y"]), int(point["x"]))),
        )
    with answer:
        st.markdown("**Two depths**, by a click on a cell or by number")
        with st.container(horizontal=True):
            first = st.number_input("From depth", 0, depths - 1, key="pair-from")
            second = st.number_input("To depth", 0, depths - 1, key="pair-to")
        st.markdown(wording.two_depths(details, int(first), int(second), by))
        st.caption(
            "Depth 0 is the stream that enters block 0; depth d has passed d blocks. A bright square far "
            "from the diagonal is a stretch of blocks that hardly changes the stream. "
            f"Source: {LIKENESSES[by].source}."
        )


def _split(details: Details) -> None:
    """What heads and MLP add to the change."""
    if details.split is None:
        st.info("Heads and MLP of this model family cannot be told apart from outside.")
        return
    parts.chart(draw_split(details, parts.theme()), "split", split_table(details))
    st.caption(
        wording.typeset(
            "Every block adds to the stream what its heads make, and what its MLP makes. Each is projected "
            "on the whole change, so that the two add up to 100 %; a part below 0 works against the other."
        )
    )


def _lens(details: Details) -> None:
    """What the head would say after every block."""
    if details.lens is None:
        st.info("No logit lens was measured here: measure the profile again, with the logit lens.")
        return
    parts.chart(draw_lens(details, parts.theme()), "lens", lens_table(details))
    st.caption(wording.LENS_READING)


def _overlay(run: Run) -> None:
    """This profile beside others, over relative depth."""
    name, first_token = controls.shown_score()
    others = {
        each.key: each
        for each in state.stored()
        if each.key != run.key
        and each.request.kind not in ("trial", "search")
        and name in each.result.profile.scores()
    }
    if not others:
        st.info("There is no other run to compare with yet: profile another model, or another text.")
        return
    chosen = st.multiselect(
        "Compare with",
        list(others),
        default=next(iter(others)),
        format_func=lambda key: wording.run_line(others[key]),
        max_selections=_OVERLAID,
        key="overlaid",
    )
    if not chosen:
        return
    runs = [run, *(others[key] for key in chosen)]
    named = [(wording.profile_name(each), each.result.profile) for each in runs]
    drawing = draw_overlay(named, name, first_token, parts.theme())
    parts.chart(drawing, "overlay", overlay_table(named, name, first_token))


def _near(run: Run) -> None:
    """What the profile looks like from near, one view at a time."""
    try:
        details, damage = find_details(run), None
    except StorageError as error:
        details, damage = None, state.told(error)
    names = [
        *("Tokens", "Depth by depth", "Heads and MLP", "Logit lens"),
        *("Against damage", "Beside other runs", "Units", "Difference"),
    ]
    tabs = st.tabs(names, bind="query-params", key="near")
    for tab, name in zip(tabs, names, strict=True):
        if not tab.open:
            continue
        with tab:
            if name == names[5]:
                _overlay(run)
            elif name == names[6]:
                show_units(run)
            elif name == names[7]:
                show_difference(run)
            elif name == names[4]:
                parts.damage_chart(run.result.profile, controls.shown_score()[1])
            elif damage:
                st.warning(damage, icon=":material/broken_image:")
            elif details is None:
                st.info("This run was stored without its tokens: measure it again, and they appear here.")
            elif name == names[0]:
                _tokens(details, run.result.profile)
            elif name == names[1]:
                _similarity(details)
            elif name == names[3]:
                _lens(details)
            else:
                _split(details)


st.title("Where is it redundant?")
st.markdown("A block that hardly changes the residual stream is one the model can spare a part of.")
shown = state.shown("profile")
current = shown is not None and model_state.is_current(shown.run.request.model)
with st.expander(
    f"Measure {wording.verbatim(state.source().label)}", icon=":material/query_stats:", expanded=not current
):
    _measure_form()
if shown := parts.provenance("profile"):
    _draw(shown.run)
    show_stream(shown.run, int(state.widget("block", 0)))
    st.header("From near")
    _near(shown.run)
    parts.reproduction(shown.run)

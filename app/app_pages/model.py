"""Page: which model, what it is, whether it can be sliced, and whether it fits; opens and closes it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import streamlit as st

from analysis.device import DTYPES, place_of
from analysis.errors import SlicescopeError
from analysis.sources.card import ModelCard
from analysis.sources.model import ModelSource
from app import model_state, parts, state, wording
from app.engine import Load, Unload

_KINDS = {"demo": "Demo", "hub": "Hub id", "folder": "Folder", "gguf": "GGUF file"}
_LOCATIONS = {
    "hub": ("Hub id, with @revision where wanted", "HuggingFaceTB/SmolLM2-135M"),
    "folder": ("Folder that save_pretrained, or slicescope, wrote", "/models/SmolLM2-135M"),
    "gguf": ("GGUF file; its weights are dequantised once", "/models/model.gguf"),
}


def _chosen_source(kind: str, location: str, device: str, dtype: str) -> ModelSource:
    """The source that the controls describe (``ModelError`` when it is none)."""
    device = place_of(device).name
    if kind == "demo":
        return ModelSource(kind="demo", device=device, dtype=dtype)
    if kind != "hub":
        state.policy().check_path(location.strip())  # before anything is said about what lies there
    if kind == "hub":
        name, _, revision = location.strip().partition("@")
        return ModelSource(kind="hub", location=name, revision=revision or None, device=device, dtype=dtype)
    return ModelSource.parse(str(Path(location.strip()).expanduser().absolute()), device, dtype)


def _draw_card(card: ModelCard) -> None:
    """What the model is, before a weight is read."""
    with st.container(border=True):
        st.header(wording.verbatim(card.label))
        if card.not_sliceable:
            st.badge("Cannot be sliced", icon=":material/block:", color="orange")
            st.markdown(state.told(card.not_sliceable))
        else:
            st.badge("Can be sliced", icon=":material/check:", color="green")
        grid = st.grid(min_column_width=140, gap="medium")
        facts = {
            "Architecture": wording.verbatim(card.architecture),
            "Blocks": f"{card.blocks}",
            "Width D": f"{card.hidden_size:,}",
            "Heads / KV heads": f"{card.heads} / {card.key_value_heads}",
            "Vocabulary": f"{card.vocab_size:,}",
            "Context, tokens": f"{card.context:,}" if card.context else "not stated",
            "Parameters": wording.millions(card.parameters),
            "Head": "tied" if card.tied else "its own",
        }
        for label, value in facts.items():
            grid.metric(label, value)
        if card.units:
            st.caption(wording.inside_blocks(card))
        _draw_fit(card)


def _draw_fit(card: ModelCard) -> None:
    """What has to be fetched, and whether there is room for it."""
    if card.to_fetch:
        st.caption(
            f":material/download: Loading it fetches **{wording.memory(card.to_fetch)}** from the Hub "
            "first. Other jobs go on meanwhile, and it can be cancelled: what has come is kept."
        )
    if card.becomes_plain:
        st.caption(
            f"Its weights are stored as {wording.verbatim(card.quantised or '')}, and become plain "
            f"{card.dtype} ones when it opens."
        )
    found, size = state.device_memory(card.device), card.bytes
    if size is None:
        st.caption("How much memory its quantised weights need is not known before they are fetched.")
        return
    kept = card.quantised and not card.becomes_plain
    stored = f" as they are stored ({wording.verbatim(card.quantised or '')})" if kept else ""
    needs = f"The weights need **{wording.memory(size)}**{stored or f' as {card.dtype}'} on {card.device}"
    if found is None:
        st.caption(
            f"{needs}. How much is free there is not known: the computing process says so when it is on "
            f"{card.device} itself."
        )
        return
    free, total = found
    st.progress(
        min(size / total, 1.0),
        text=f"{needs}; {wording.memory(free)} of {wording.memory(total)} are free.",
    )
    if card.not_sliceable:
        return
    if 2 * size > free:
        st.warning("Slicing holds the dense and the sliced model at once, which may not fit here.")
    else:
        st.caption(
            f"Slicing holds the dense and the sliced model at once: {wording.memory(2 * size)} "
            "or less, and the text's states on top."
        )


def _any_model() -> Callable[[], ModelSource] | str:
    """What makes a source of what the controls say, or what is still missing."""
    kind = st.segmented_control(
        "Source",
        list(_KINDS),
        format_func=_KINDS.__getitem__,
        default="demo",
        required=True,
        key="model-kind",
        persist_state="session",
    )
    location = ""
    if kind in _LOCATIONS:
        label, example = _LOCATIONS[kind]
        location = st.text_input(label, placeholder=example, key=f"location-{kind}", persist_state="session")
    device = st.selectbox(
        "Device",
        ["auto", "cuda", "cuda+cpu", "cuda:0,1", "cuda:0,1+cpu", "mps", "cpu"],
        key="device",
        accept_new_options=True,
        persist_state="session",
        help="Several cards are named by their numbers. With the host (+cpu), blocks that find no room on "
        "cards rest in its memory, and beyond that on disk. They visit a card when it is their turn. Beside "
        "one card (cuda+cpu) all blocks of a large model rest there, so that the card is free for the work.",
    )
    dtype = st.selectbox("Dtype", ["auto", *DTYPES], key="dtype", persist_state="session")
    st.caption(
        "auto: CUDA (one card; for a larger model all cards, and the host where it needs it), then MPS, then "
        "the CPU; float32 on a CPU, 16 bits on an accelerator."
    )
    if kind != "demo" and not location.strip():
        return f"Name a model to see its card, for example {_LOCATIONS[str(kind)][1]}."
    return partial(_chosen_source, str(kind), location, device, dtype)


def _offered_model(offered: tuple[ModelSource, ...]) -> Callable[[], ModelSource]:
    """One of the models that the server offers."""
    labels = [source.label for source in offered]
    chosen = st.selectbox("Model", labels, key="offered", persist_state="session")
    return lambda: offered[labels.index(chosen)]


st.title("Which model?")
st.markdown("Choose where the weights come from. Nothing is loaded before the card says that it fits.")
choice, view = st.columns([3, 7], gap="large")
policy = state.policy()
with choice:
    asked = _any_model() if policy.models is None else _offered_model(policy.models)

source, card = None, None
with view:
    if isinstance(asked, str):
        st.info(asked)
    else:
        try:
            source = asked()
            card = state.model_card(source)
            _draw_card(card)
        except SlicescopeError as error:
            st.error(state.told(error), icon=":material/error:")

opened, held = model_state.open_source(), model_state.opened()
if held and card and source != held.source:
    choice.caption(f":material/eject: {wording.closes(held, state.owner())}")
with choice, st.container(horizontal=True):
    if opened is not None and opened == source:
        now = source == state.source()
        label, icon = ("This is the model now", "check") if now else ("Work on this model", "deployed_code")
        st.button(
            label,
            type="primary",
            icon=f":material/{icon}:",
            disabled=now,
            on_click=model_state.switch,
            args=(source,),
            help="It is open already. Every form of this session runs it.",
        )
    elif (
        st.button(
            "Load",
            type="primary",
            icon=":material/upload:",
            disabled=card is None,
            on_click=model_state.switch,
            args=(source,),
        )
        and source
    ):
        parts.ask(partial(Load, source))
    if policy.may_delete and st.button("Unload", icon=":material/eject:", disabled=opened is None):
        parts.ask(Unload)

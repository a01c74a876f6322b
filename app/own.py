"""Own texts and models: a drop zone and labelled fields, at the head of every form that takes texts.

Knows nothing about what is measured.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import streamlit as st

from analysis.errors import SlicescopeError, TextError
from analysis.sources.files import FILE_FORMATS
from analysis.sources.text import TextSource
from analysis.storage import texts_folder, write_whole
from app import model_switch, own_state, state, wording
from app.uploads import let_go

KINDS = [*(suffix.removeprefix(".") for suffix in FILE_FORMATS), "gz"]
"""The kinds of files that a text may be, by their suffixes."""
LARGEST = 20
"""MB of a text that is dropped."""
LABEL = (
    "Your own text: drop a file here (.txt, .md, .json, .jsonl, .csv, .tsv, .parquet, or one of them in .gz)"
)
EXAMPLE = "~/texts/reports.jsonl#body"


def own_inputs(lists: Mapping[str, str]) -> None:
    """Take a text, and name a model, of one's own; outside of forms, whose inputs wait for their button.

    ``lists``: the lists of texts below, by their keys, each with what is done with the text that it names.
    """
    policy = state.policy()
    texts, models = policy.may_import and policy.texts is None, policy.models is None
    if not texts and not models:
        return
    grid = st.grid(2, min_column_width=280, gap="medium")
    if texts:
        with grid.container():
            _own_text(lists)
    if models:
        with grid.container():
            name = next(iter(lists))
            model_switch.another(
                f"{name}-own-model", "Your own model: a folder, a GGUF file, or owner/name on the Hub"
            )
            st.caption("Weights are larger than an upload may be, so a model is named by where it is.")


def _own_text(lists: Mapping[str, str]) -> None:
    """A drop zone and a field for a text, and for which of several purposes it is."""
    name = next(iter(lists))
    purpose = name
    if len(lists) > 1:
        purpose = st.segmented_control(
            "Your own text is for",
            list(lists),
            format_func=lambda key: lists[key],
            default=name,
            required=True,
            key=f"{name}-own-purpose",
        )
    drops = f"{name}-own-drops"
    key = f"{name}-own-{state.widget(drops, 0)}"
    st.file_uploader(
        LABEL,
        type=KINDS,
        key=key,
        max_upload_size=LARGEST,
        on_change=_dropped,
        args=(key, drops, str(purpose)),
        help="Plain text, or a table: JSON lines, CSV, TSV or parquet with a column 'text'; each also packed "
        "with gzip. The file is kept in slicescope's own folder, so that a run can be repeated.",
    )
    said = f"{name}-own-said"
    st.text_input(
        "or its path, or a data set on the Hub",
        key=said,
        placeholder=f"for example {EXAMPLE}",
        on_change=_said,
        args=(said, str(purpose)),
        help="Behind '#' stands the column of a table.",
    )
    if told := state.widget("own-told", ""):
        st.caption(told)
    if wrong := state.widget("own-wrong", ""):
        st.warning(wrong, icon=":material/error:")


def _dropped(key: str, drops: str, purpose: str) -> None:
    """Keep a file that was dropped, and let a list of texts name it; only in a callback."""
    given = state.widget(key, None)
    if given is None:
        return
    state.put({drops: state.widget(drops, 0) + 1})  # a drop zone of another name is empty again
    try:
        _take(str(keep_text(given.name, given.getvalue())), purpose)
    except SlicescopeError as error:
        state.put({"own-told": "", "own-wrong": state.told(error)})
    finally:
        let_go(given)


def _said(key: str, purpose: str) -> None:
    """Let a list of texts name what was typed; only in a callback."""
    if not (said := str(state.widget(key, "")).strip()):
        return
    try:
        state.policy().check(TextSource.parse(said, "calibration"))
        _take(said, purpose)
    except SlicescopeError as error:
        state.put({"own-told": "", "own-wrong": state.told(error)})


def _take(said: str, purpose: str) -> None:
    """Choose a text in the list of its purpose, and offer it in the others."""
    source = TextSource.parse(said, "calibration")
    begin = next(iter(islice(source.documents(), 1)), "") if source.kind == "file" else None
    if begin == "":
        raise TextError(f"The text '{source.label}' holds no document: give one with some words.")
    own_state.offer_text(said)
    told = f"**{wording.verbatim(source.label)}** is chosen below"
    if begin:
        told += f". It begins: “{wording.verbatim(' '.join(begin.split())[:80])}…”"
    state.put({purpose: said, "own-told": told, "own-wrong": ""})


def keep_text(name: str, content: bytes) -> Path:
    """Store a text that was uploaded, in a folder named by its content (``TextError``, ``StorageError``).

    The same file is stored once, and one of another content never takes its place.
    """
    plain = re.sub(r"[^\w.-]+", "-", Path(name.replace("\\", "/")).name).lstrip(".-")[-80:]
    suffixes = [each.lower() for each in Path(plain).suffixes]
    if not suffixes or suffixes[-1].removeprefix(".") not in KINDS:
        kinds = ", ".join(f".{kind}" for kind in KINDS)
        raise TextError(f"The file '{name}' is of no kind that is read here: give one of {kinds}.")
    if len(content) > LARGEST * 2**20:
        raise TextError(f"The file '{name}' has more than {LARGEST} MB: type its path instead.")
    place = texts_folder() / hashlib.sha256(content).hexdigest()[:12] / plain
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, content)
    return place

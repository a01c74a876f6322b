"""The inputs of pages: a text, how many windows, a share, a choice.

What they return is checked again when a request is made of it, since a widget's limits bind only the browser.
Knows nothing about results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from analysis.details import LIKENESSES, Details
from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.sources.files import looks_like_path
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from app import own_state, state, wording
from app.figures.profile import DAMAGES
from slicing.plans import Plan


def score(key: str, *profiles: LayerProfile, usual: str = Plan().score) -> str:
    """Ask which of the scores to look at that all the profiles hold, and begin with the usual one."""
    held = [name for name in SCORES if all(name in each.scores() for each in profiles)]
    return choice("Score", key, {name: SCORES[name].title for name in held}, usual)


def damage_choice(key: str, profile: LayerProfile) -> str | None:
    """Ask which of the damages that the profile holds to look at; ``None`` where it holds none."""
    held = {name: SCORES[name].title for name in DAMAGES if name in profile.scores()}
    if len(held) < 2:
        return next(iter(held), None)
    return choice("Damage", key, held, next(iter(held)))


def likeness(details: Details) -> str:
    """By which of the measures that were kept the stream at two depths is compared."""
    held = {name: LIKENESSES[name].title for name in details.maps()}
    return choice("Compared by", "compared-by", held, next(iter(held)))


def shown_score() -> tuple[str, bool]:
    """The score that the profile shows, and whether the first token counts, as ``score`` last gave them."""
    return state.widget("shown", Plan().score), bool(state.widget("shown-first", False))


def block(profile: LayerProfile) -> int:
    """The block to look at from near; a click on a chart chooses it too."""
    return st.selectbox(
        "Block",
        range(profile.blocks),
        index=_most_redundant(profile),
        format_func=lambda index: f"{index} · {profile.block_path}.{index}",
        key="block",
        bind="query-params",
    )


def _most_redundant(profile: LayerProfile) -> int:
    """The block to begin with: the one that changes its input least, since that is what the page asks for."""
    return int(np.argmax(profile.redundancy(Plan().score)))


def text(label: str, role: Role, key: str, usual: str = "demo") -> str:
    """A text: the demo's, a preset, or whatever path or Hub id is typed; or else one of those offered."""
    options = ["demo", *(["demo:out-of-style"] if role == "evaluation" else []), *PRESETS]
    mine = own_state.own_texts()
    options += mine
    if usual not in options:
        options.append(usual)
    offered = state.policy().texts
    if offered is not None:
        options = [option for option in options if TextSource.parse(option, role) in offered]
        usual = usual if usual in options else options[0]
    chosen = st.selectbox(
        label,
        options,
        index=options.index(usual),
        key=key,
        format_func=lambda option: _text_title(option, role, option in mine),
        accept_new_options=offered is None,
        persist_state="session",
        help="Choose one, or type the path of a file or the id of a data set on the Hub."
        if offered is None
        else None,
    )
    return chosen if chosen in options or (chosen and offered is None) else usual


def _text_title(option: str, role: Role, mine: bool) -> str:
    """A text in lists; of a file that was brought its name is enough."""
    if mine and looks_like_path(option):
        return f"{Path(option).name} (yours)"
    return wording.text_title(f"demo:{role}" if option == "demo" else option)


def number(
    label: str,
    key: str,
    usual: int,
    low: int = 1,
    high: int = 4096,
    step: int = 1,
    help_text: str | None = None,
) -> int:
    """A whole number, such as how many windows, within what the server allows."""
    high = min(high, state.policy().cap(key) or high)
    usual = min(max(usual, low), high)
    chosen = st.number_input(
        label,
        min_value=low,
        max_value=high,
        value=usual,
        step=step,
        key=key,
        persist_state="session",
        help=help_text,
    )
    return usual if chosen is None else int(chosen)


def share(
    label: str, key: str, usual: float, help_text: str | None = None, low: int = 0, high: int = 95
) -> float:
    """A share in whole percent, by default of the width; ``low`` and ``high`` are in percent."""
    chosen = st.slider(
        label,
        low,
        high,
        min(round(100 * usual), high),
        format="%d %%",
        key=key,
        bind="query-params",
        help=help_text,
    )
    return chosen / 100


def choice(label: str, key: str, titles: dict[Any, str], usual: Any, help_text: str | None = None) -> Any:
    """One of a few values, each with its title."""
    chosen = st.segmented_control(
        label,
        list(titles),
        format_func=lambda option: titles.get(option, str(option)),
        default=usual,
        required=True,
        key=key,
        bind="query-params",
        help=help_text,
        wrap=True,
    )
    return chosen if chosen in titles else usual

"""The inputs that recipes are made of: a plan, a text, how many windows.

What they return is checked again when a recipe is made of it, since a widget's limits bind only the browser.
Knows nothing about results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
from pydantic.fields import FieldInfo

from analysis.details import LIKENESSES, Details
from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from app import state, wording
from app.figures.profile import DAMAGES, outliers
from slicing.allocation import ALLOCATIONS
from slicing.plan import Plan
from slicing.runs import BOARD_ENTRIES, USUAL_ENTRIES, CompareRecipe, ContestRecipe, LeaderboardRecipe, SweepRecipe
from slicing.steps.removal import SEARCH_WINDOWS
from app.journal import Entry
from slicing.schedule import ROUNDINGS

BY_HAND = [name for name, kind in ALLOCATIONS.items() if not kind.made]
"""The allocations that one can choose."""
EMBEDDINGS = {"auto": "Automatic", "shared": "Shared", "untied": "Untied"}


PRESETS_OF_PLANS = {
    "The usual: SP 25 %, SB 10 %": Plan(),
    "Mild: SP 10 %, SB 5 %": Plan(target=0.1, settings={"base": 0.05}),
    "Strong: SP 40 %, SB 20 %": Plan(target=0.4, settings={"base": 0.2}),
    "Spare what changes most: SP 25 %, SB 0": Plan(settings={"base": 0.0}),
    "Constant: SP 25 %": Plan(allocation="constant", settings={}),
}
"""Where to start from."""


def values_of(plan: Plan) -> dict[str, Any]:
    """The widgets' values that make this plan, by their keys."""
    rule = type(plan.rule())
    settings: dict[str, Any] = {}
    for name, value in plan.settings.items():
        if isinstance(value, tuple):  # scaling brings them to whole percent; any other target is their mean
            settings["normalise"] = abs(plan.target - _percent(plan.target) / 100) < 1e-9
        elif rule.model_fields[name].annotation is int:
            settings[name] = int(value)
        else:
            settings[name] = _percent(value) if wording.is_share(rule, name) else value
    return {
        "sp": _percent(plan.target),
        "allocation": plan.allocation,
        **settings,
        "score": plan.score,
        "rounding": plan.rounding,
        "span": plan.span,
        "max": _percent(plan.max_fraction),
        "embedding": plan.embedding,
        "first": plan.first_token,
    }


def take(plan: Plan) -> None:
    """Make the widgets show this plan; only in a callback."""
    state.put(values_of(plan))
    if isinstance(shares := plan.settings.get("shares"), tuple):
        state.start_shares(shares)


def by_hand(plan: Plan, fractions: Sequence[float], scaled: bool = True) -> Plan:
    """The plan as shares to be edited, in tenths of a percent as the table shows them.

    They are scaled to the plan's target, or else their mean is the target.
    """
    shares = tuple(round(each, 3) for each in fractions)
    target = plan.target if scaled else float(np.mean(shares))
    return plan.model_copy(update={"target": target, "allocation": "manual", "settings": {"shares": shares}})


def undo() -> None:
    """Go back to the plan before this one; only in a callback."""
    take(state.plan_before())


def starts() -> None:
    """Presets, and the way back."""
    with st.container(horizontal=True):
        with st.popover("Presets", icon=":material/bookmark:"):
            for title, preset in PRESETS_OF_PLANS.items():
                st.button(title, on_click=take, args=(preset,), width="stretch", key=f"preset-{title}")
        st.button("Undo", icon=":material/undo:", on_click=undo, disabled=not state.can_undo())


def plan(profile: LayerProfile) -> Plan:
    """Sliders and choices, all of them in the URL (``PlanError`` when they do not go together).

    The fields of an allocation become sliders, so a new allocation needs no edit here. What is measured or
    searched for on a model is not to be chosen by hand, and a score that the profile does not hold neither.
    """
    usual = Plan()
    target = _share("Target (SP)", "sp", usual.target, "Mean share of the width to cut, over all blocks.")
    allocation = st.selectbox(
        "Allocation",
        BY_HAND,
        index=BY_HAND.index(usual.allocation),
        format_func=_allocation_title,
        key="allocation",
        bind="query-params",
        help="How the cut is shared out over the blocks.",
    )
    rule = ALLOCATIONS[allocation]
    settings: dict[str, float | tuple[float, ...]] = {}
    for name, field in rule.model_fields.items():
        if name == "shares":
            settings[name], normalise = _shares(profile.blocks, target)
            target = target if normalise else float(np.mean(settings[name]))
        elif wording.is_share(rule, name):
            settings[name] = _share(field.title or name, name, field.default)
        else:
            settings[name] = _setting(field, name)
    score = usual.score
    if rule.uses_scores:
        score = st.selectbox(
            "Score that decides",
            profile.scores(),
            index=profile.scores().index(usual.score),
            format_func=lambda name: SCORES[name].title if name in SCORES else name,
            key="score",
            bind="query-params",
        )
    rounding = _choice(
        "Widths are multiples of",
        "rounding",
        {each: str(each) for each in ROUNDINGS},
        usual.rounding,
        "Hardware likes multiples of 8 or 64; the mean is kept.",
    )
    span = int(
        st.number_input(
            "Blocks that share a basis",
            min_value=0,
            max_value=max(profile.blocks, usual.span),
            value=usual.span,
            key="span",
            bind="query-params",
            help="0: every sub-layer has a basis of its own and a shortcut matrix to the next, as published. "
            "Otherwise so many blocks in a row share one: their shortcuts fall away, and at equal size more "
            "of the stream is kept. Constant slicing, for comparison, stays as published.",
        )
    )
    with st.expander("More settings"):
        largest = _share("Largest fraction of a block", "max", usual.max_fraction)
        embedding: Any = _choice(
            "Embedding form",
            "embedding",
            EMBEDDINGS,
            usual.embedding,
            "Shared: one table for embedding and head, for tied models. Untied: the published form, in which "
            "the head gets a copy of its own. Automatic: shared where the model is tied.",
        )
        first_token = st.toggle("Count the first token in the score", key="first", bind="query-params")
    return Plan(
        target=target,
        allocation=allocation,
        settings=settings,
        score=score,
        first_token=first_token,
        max_fraction=largest,
        rounding=rounding,
        embedding=embedding,
        span=span,
    )


def _shares(blocks: int, target: float) -> tuple[tuple[float, ...], bool]:
    """A share for every block, typed into a table, and whether they are scaled to the target."""
    key, begun = state.shares((target,) * blocks)
    normalise = st.toggle(
        "Normalise to the target",
        value=True,
        key="normalise",
        bind="query-params",
        help="Scale the shares so that their mean is the target. Off: the mean of the shares is the target.",
    )
    table = pd.DataFrame({"block": range(blocks), "share": [100.0 * share for share in begun]})
    edited = st.data_editor(
        table,
        key=key,
        hide_index=True,
        num_rows="fixed",
        disabled=["block"],
        height=280,
        column_config={
            "share": st.column_config.NumberColumn(
                "share of the width", min_value=0.0, max_value=95.0, step=0.1, format="%.1f %%", required=True
            )
        },
    )
    shares = tuple((edited["share"].fillna(0.0) / 100.0).round(6).tolist())
    state.keep_shares(shares)
    return shares, normalise


def _setting(field: FieldInfo, key: str) -> float:
    """A number that an allocation bounds; without an upper bound the slider reaches ten times the usual."""
    title, bounds = field.title or key, {}
    for each in field.metadata:
        bounds |= {name: getattr(each, name) for name in ("ge", "gt", "le") if hasattr(each, name)}
    if field.annotation is int:
        low = int(bounds["ge"])
        return float(
            st.number_input(title, low, 2**31 - 1, value=field.default, key=key, bind="query-params")
        )
    high = float(bounds.get("le", 10 * field.default))
    step = high / 100
    low = float(bounds["ge"]) if "ge" in bounds else step  # above, not at, a bound that is left out
    return st.slider(title, low, high, field.default, step, key=key, format="%.3g", bind="query-params")


def _allocation_title(name: str) -> str:
    if name not in ALLOCATIONS:
        return name
    return ALLOCATIONS[name].title + (" · a control" if ALLOCATIONS[name].control else "")


def _percent(share: float) -> int:
    return round(100 * share)


def comparison(usual: CompareRecipe) -> CompareRecipe:
    """The texts and budgets of a comparison, the proposed ones to begin with."""
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Calibration**, on which the bases are found")
        calibration = text(
            "Text", "calibration", "calibration", wording.text_argument(usual.calibration, "calibration")
        )
        calibration_windows = number("Windows", "calibration-windows", usual.calibration_windows)
        profile_windows = number("of which profiled", "profiled-windows", usual.profile_windows)
        seed = number("Seed that draws them", "seed", usual.seed, 0, 2**31 - 1)
    with right:
        st.markdown("**Evaluation**, on which the perplexity is measured")
        evaluation = text(
            "Text", "evaluation", "evaluation", wording.text_argument(usual.evaluation, "evaluation")
        )
        evaluation_windows = number("Windows", "evaluation-windows", usual.evaluation_windows)
        length = number("Window length, tokens", "window-length", usual.window_length, 2, 131072, 64)
        new_tokens = number("Tokens to generate", "new-tokens", usual.new_tokens, 0, 1000)
    repair = st.toggle(
        "Repair the writers",
        value=usual.repair,
        key="repair",
        persist_state="session",
        help="Fit what every sub-layer writes anew, so that the sliced stream follows the dense one. Slicing "
        "takes four to five times as long; where held-out windows do not gain, it is left as it was.",
    )
    prompt = st.text_input("Prompt of the illustration", usual.prompt, key="prompt", persist_state="session")
    return usual.model_copy(
        update={
            "calibration": TextSource.parse(calibration, "calibration"),
            "calibration_windows": calibration_windows,
            "profile_windows": min(profile_windows, calibration_windows),
            "evaluation": TextSource.parse(evaluation, "evaluation"),
            "evaluation_windows": evaluation_windows,
            "window_length": length,
            "seed": seed,
            "repair": repair,
            "prompt": prompt,
            "new_tokens": new_tokens,
        }
    )


def score(key: str, *profiles: LayerProfile) -> str:
    """Which of the scores to look at that all the profiles hold."""
    held = [name for name in SCORES if all(name in each.scores() for each in profiles)]
    return _choice("Score", key, {name: SCORES[name].title for name in held}, Plan().score)


def damage_choice(key: str, profile: LayerProfile) -> str | None:
    """Which of the damages that the profile holds to look at; ``None`` where it holds none."""
    held = {name: SCORES[name].title for name in DAMAGES if name in profile.scores()}
    if len(held) < 2:
        return next(iter(held), None)
    return _choice("Damage", key, held, next(iter(held)))


def likeness(details: Details) -> str:
    """By which of the measures that were kept the stream at two depths is compared."""
    held = {name: LIKENESSES[name].title for name in details.maps()}
    return _choice("Compared by", "compared-by", held, next(iter(held)))


def sweep(usual: CompareRecipe) -> SweepRecipe:
    """The grid, texts and budgets of a sweep."""
    bases = _grid("Bases (SB), %", "sweep-bases", (0, 10, 20))
    targets = _grid("Targets (SP), %", "sweep-targets", (15, 25, 35))
    method = _choice(
        "Bases are found",
        "sweep-method",
        {"preview": "Once (preview)", "faithful": "For each (faithful)"},
        "preview",
        "Preview: one pass over the dense model serves all cells, which is quicker. Faithful: each cell is "
        "calibrated as Compare does it.",
    )
    shared = _trials("sweep", usual)
    plan = usual.plan if "base" in usual.plan.settings else Plan()
    return SweepRecipe(
        **shared,
        plan=plan.model_copy(update={"target": Plan().target, "settings": dict(Plan().settings)}),
        bases=tuple(base / 100 for base in sorted(bases)),
        targets=tuple(target / 100 for target in sorted(targets)),
        seed=usual.seed,
        method=method,
    )


def contest(usual: CompareRecipe) -> ContestRecipe:
    """Who takes part in a contest, at what size, and on what."""
    target = _share("Target (SP) of constant slicing", "contest-target", Plan().target)
    equal = _choice(
        "All others have",
        "contest-equal",
        {"parameters": "Equal parameters", "slice": "Equal mean slice"},
        "parameters",
        "Equal parameters: everyone is as large as constant slicing at the target. Equal mean slice: the "
        "published protocol.",
    )
    policy = state.policy()
    open_to = [name for name in USUAL_ENTRIES if policy.may_decide(Entry.parse(name))]
    entries = st.multiselect(
        "Entries",
        open_to,
        default=FIRST_ENTRIES,
        key="contest-entries",
        persist_state="session",
        help="allocation:score:setting, with repair or without. All but constant have it to beat; random, "
        "falling and inverted are controls.",
    )
    seeds = st.multiselect(
        "Seeds of the calibration",
        range(10),
        default=[0],
        key="contest-seeds",
        persist_state="session",
        help="Each draws other calibration windows. Three say how much of a difference is their luck, and "
        "take three times as long.",
    )
    method = _choice(
        "Bases are found",
        "contest-method",
        {"faithful": "For each (faithful)", "preview": "Once (preview)"},
        "faithful",
        "Faithful: each entry is calibrated as Compare does it. Preview: one pass over the dense model "
        "serves all entries, none of which can be repaired.",
    )
    shared = _trials("contest", usual)
    second = st.toggle("Evaluate on a second text too", True, key="contest-second", persist_state="session")
    other = text("Second text", "evaluation", "contest-other", "demo:out-of-style")
    return ContestRecipe(
        **shared,
        plan=Plan(
            target=target,
            rounding=usual.plan.rounding,
            max_fraction=usual.plan.max_fraction,
            embedding=usual.plan.embedding,
        ),
        entries=tuple(Entry.parse(name) for name in USUAL_ENTRIES if name in entries),
        equal=equal,
        seeds=tuple(sorted(seeds)),
        method=method,
        other=TextSource.parse(other, "evaluation") if second else None,
    )


def leaderboard(usual: CompareRecipe) -> LeaderboardRecipe:
    """Who takes part in a leaderboard, at which sizes, and on what."""
    sizes = st.multiselect(
        "Fewer parameters than dense, %",
        [5, 10, 15, 20, 25, 30, 40, 50],
        default=[10, 20, 30],
        key="board-sizes",
        persist_state="session",
        help="Each to the nearest whole block: that is what removal can reach, and slicing is brought to it.",
    )
    entries = st.multiselect(
        "Entries",
        BOARD_ENTRIES,
        default=FIRST_ON_BOARD,
        key="board-entries",
        persist_state="session",
        help="Slicing as in a contest; remove:method, with +matrix, +writer, +block or +writers to close "
        "the gaps; or both, with the share of the budget that goes in whole blocks.",
    )
    share = _choice(
        "What does both removes in whole blocks",
        "board-share",
        {0.25: "25 %", 0.5: "50 %", 0.75: "75 %", "search": "Searched"},
        0.5,
        "Of what goes; slicing takes the rest. Searched: whichever loses least as a preview.",
    )
    search_windows = number("Windows that choose blocks", "board-search-windows", SEARCH_WINDOWS, high=64)
    shared = _trials("leaderboard", usual)
    second = st.toggle("Evaluate on a second text too", True, key="board-second", persist_state="session")
    other = text("Second text", "evaluation", "board-other", "demo:out-of-style")
    timed = st.toggle(
        "Time each model beside dense",
        False,
        key="board-timed",
        persist_state="session",
        help="Five rounds of a prompt and some tokens, in turns with the dense model.",
    )
    return LeaderboardRecipe(
        **shared,
        plan=Plan(rounding=usual.plan.rounding, embedding=usual.plan.embedding),
        entries=tuple(_shared(Entry.parse(name), share) for name in BOARD_ENTRIES if name in entries),
        sizes=tuple(size / 100 for size in sorted(sizes)),
        search_windows=search_windows,
        speed_rounds=5 if timed else 0,
        other=TextSource.parse(other, "evaluation") if second else None,
    )


def _shared(entry: Entry, share: float | Literal["search"]) -> Entry:
    """The entry with this share in whole blocks, where it does both."""
    if entry.removal is None or not entry.removal.slices:
        return entry
    return entry.model_copy(update={"removal": entry.removal.model_copy(update={"share": share})})


FIRST_ON_BOARD = [
    "constant",
    "dynamic:lr:base=0+span=3+repair",
    "remove:shortgpt",
    "remove:streamline",
    "remove:streamline+matrix",
    "remove:streamline+writers",
    "remove:streamline:share=0.5/dynamic:lr:base=0+span=3+repair",
]
"""A small board that is honest and quick: no method that tries every block."""


def board_text() -> Literal["first", "second"]:
    """Which evaluation text the chart shows."""
    titles = {"first": "First text", "second": "Second text"}
    return _choice("Evaluated on", "board-text", titles, "first")


def board_size(sizes: Sequence[float]) -> float:
    """Which size is looked at from near."""
    titles = {size: f"{100 * size:g} % fewer" for size in sizes}
    return _choice("Everyone at", "board-size-shown", titles, sizes[0])


FIRST_ENTRIES = [
    "constant",
    "dynamic:lr:base=0",
    "softmax:block-influence",
    "rising",
    "random:draw=0",
    "random:draw=1",
    "constant+repair",
    "dynamic:lr:base=0+span=3",
    "dynamic:lr:base=0+span=3+repair",
]
"""A small contest that is honest: the reference, three rules, two draws of chance, repair, shared bases."""


def _trials(name: str, usual: CompareRecipe) -> dict[str, Any]:
    """What sweeps and contests say alike: the model, the texts and their budgets."""
    said = wording.text_argument(usual.calibration, "calibration")
    calibration = text("Calibration text", "calibration", f"{name}-calibration", said)
    calibration_windows = number(
        "Calibration windows", f"{name}-calibration-windows", usual.calibration_windows
    )
    said = wording.text_argument(usual.evaluation, "evaluation")
    evaluation = text("Evaluation text", "evaluation", f"{name}-evaluation", said)
    evaluation_windows = number("Evaluation windows", f"{name}-evaluation-windows", usual.evaluation_windows)
    length = number("Window length, tokens", f"{name}-length", usual.window_length, 2, 131072, 64)
    return {
        "model": usual.model,
        "calibration": TextSource.parse(calibration, "calibration"),
        "calibration_windows": calibration_windows,
        "profile_windows": min(usual.profile_windows, calibration_windows),
        "evaluation": TextSource.parse(evaluation, "evaluation"),
        "evaluation_windows": evaluation_windows,
        "window_length": length,
    }


def _grid(label: str, key: str, usual: tuple[int, ...]) -> list[int]:
    return st.multiselect(label, range(0, 96, 5), default=usual, key=key, persist_state="session")


def link_of(plan: Plan) -> dict[str, str]:
    """The parameters of the address that make the widgets show this plan."""
    values = values_of(plan) | {
        "allocation": _allocation_title(plan.allocation),  # lists stand in the address as they are shown
        "score": SCORES[plan.score].title,
    }
    return {key: str(value) for key, value in values.items()}


def shown_score() -> tuple[str, bool]:
    """The score that the profile shows, and whether the first token counts, as ``score`` last gave them."""
    return state.widget("shown", Plan().score), bool(state.widget("shown-first", False))


def block(profile: LayerProfile) -> int:
    """The block to look at from near; a click on a chart chooses it too."""
    return st.selectbox(
        "Block",
        range(profile.blocks),
        index=_telling(profile),
        format_func=lambda index: f"{index} · {profile.block_path}.{index}",
        key="block",
        bind="query-params",
    )


def _telling(profile: LayerProfile) -> int:
    """The block to begin with: of those that are not far out, the one that changes its input most."""
    redundancy = np.asarray(profile.redundancy(Plan().score))
    redundancy[outliers(redundancy)] = np.inf
    return int(redundancy.argmin())


def text(label: str, role: Role, key: str, usual: str = "demo") -> str:
    """A text: the demo's, a preset, or whatever path or Hub id is typed; or else one of those offered."""
    options = ["demo", *(["demo:out-of-style"] if role == "evaluation" else []), *PRESETS]
    offered = state.policy().texts
    if offered is not None:
        options = [option for option in options if TextSource.parse(option, role) in offered]
        usual = usual if usual in options else options[0]
    if usual not in options:
        options.append(usual)
    chosen = st.selectbox(
        label,
        options,
        index=options.index(usual),
        key=key,
        format_func=lambda option: wording.text_title(f"demo:{role}" if option == "demo" else option),
        accept_new_options=offered is None,
        persist_state="session",
        help="Choose one, or type the path of a file or the id of a data set on the Hub."
        if offered is None
        else None,
    )
    return chosen if chosen in options or (chosen and offered is None) else usual


def number(label: str, key: str, usual: int, low: int = 1, high: int = 4096, step: int = 1) -> int:
    """A whole number, such as how many windows, within what the server allows."""
    high = min(high, state.policy().cap(key) or high)
    usual = min(max(usual, low), high)
    chosen = st.number_input(
        label, min_value=low, max_value=high, value=usual, step=step, key=key, persist_state="session"
    )
    return usual if chosen is None else int(chosen)


def _share(label: str, key: str, usual: float, help_text: str | None = None) -> float:
    """A share of the width in whole percent."""
    chosen = st.slider(
        label, 0, 95, round(100 * usual), format="%d %%", key=key, bind="query-params", help=help_text
    )
    return chosen / 100


def _choice(label: str, key: str, titles: dict[Any, str], usual: Any, help_text: str | None = None) -> Any:
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

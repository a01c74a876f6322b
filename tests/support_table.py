"""What works on a tiny model of every type of causal language model, and the part of docs/models.md on it.

``python tests/every_family.py --write`` writes it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_args
from unittest.mock import patch

import torch
import transformers
from every_family import BLOCKS, NOT_TRIED, causal_types, tiny
from torch import Tensor
from transformers import PreTrainedModel

from analysis.anatomy import decoder, why_not_sliceable
from analysis.errors import UnsupportedError
from analysis.hooks import watch_blocks
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.read_units import why_without
from analysis.support import NEVER_SLICED, NOT_YET_PROFILED, NOT_YET_SLICED
from analysis.units import Kind
from slicing.guard import GUARD_TOLERANCE, refuse_unless_invariant
from slicing.inner.widths import KINDS

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
MARKERS = ("<!-- support table: begin -->\n", "<!-- support table: end -->\n")


class Verdict(NamedTuple):
    """What works on the tiny model of a type."""

    model_type: str
    sliced: bool
    profiled: bool
    units: tuple[Kind, ...] = ()
    """What can be taken out inside its blocks, where it can be sliced."""
    no_units: tuple[tuple[Kind, str], ...] = ()
    """Why kinds of units are not among them."""


def verdict(model_type: str) -> Verdict:
    if model_type in NOT_TRIED:
        return Verdict(model_type, False, False)
    model = tiny(model_type)
    sliced = passes_guard(model)
    units = read_shape(model).kinds if sliced else ()
    missing = why_without(model, set(get_args(Kind)) - set(units)) if sliced else {}
    return Verdict(model_type, sliced, _is_profiled(model), units, tuple(missing.items()))


def passes_guard(model: PreTrainedModel) -> bool:
    """Whether random rotations leave the logits alone, up to rounding."""
    if why_not_sliceable(model.config):
        return False
    try:
        with patch.dict(GUARD_TOLERANCE, {"float32": 1e-4}):
            refuse_unless_invariant(model)
    except UnsupportedError:
        return False
    return True


def _is_profiled(model: PreTrainedModel) -> bool:
    """Whether there is a cosine for every block, and each block takes up what the one before it left."""
    windows = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    seen: list[tuple[int, Tensor, Tensor]] = []
    try:
        cosines = profile_blocks(model, windows, model_label="", text_label="").to_frame()["cosine"]
        with watch_blocks(model, lambda i, x, y: seen.append((i, x.clone(), y.clone()))), torch.no_grad():
            decoder(model)(windows, use_cache=False)
    except Exception:  # whatever it is, there is no profile
        return False
    in_order = [index for index, _, _ in seen] == list(range(BLOCKS))
    chained = all(torch.equal(before[2], after[1]) for before, after in pairwise(seen))
    return bool(cosines.between(-1.0, 1.0).all()) and in_order and chained


def support_table(verdicts: list[Verdict]) -> str:
    """The text of the page between the markers."""
    sliced = [each.model_type for each in verdicts if each.sliced]
    profiled = [each.model_type for each in verdicts if each.profiled and not each.sliced]
    tables = {
        "Profiled only: a rotation of the stream would break them": NEVER_SLICED,
        "Profiled only, so far": NOT_YET_SLICED,
        "Neither sliced nor profiled, so far": NOT_YET_PROFILED,
    }
    known = {each.model_type for each in verdicts}
    lines = [
        f"Of the {len(verdicts)} types of causal language models in transformers {_version()}, "
        f"{len(sliced)} can be sliced and {len(profiled)} more can be profiled.",
        "`python tests/every_family.py --write` tries a tiny random model of each and writes this section.",
        "",
        "## Types that can be sliced",
        "",
        f"{_listed(sliced)}.",
        "",
        *_units_table(verdicts),
        f"## The other {len(verdicts) - len(sliced)} types",
    ]
    for title, table in tables.items():
        lines += ["", f"### {title}", "", "| why | types |", "|---|---|"]
        for reason, types in table.items():
            lines.append(f"| {reason} | {_listed(sorted(known & set(types.split())))} |")
    return "\n".join([*lines, ""])


def _units_table(verdicts: list[Verdict]) -> list[str]:
    """What methods that cut inside blocks find in each type, and why the rest is not there."""
    alike: dict[tuple[Kind, ...], list[str]] = {}
    reasons: dict[tuple[Kind, str], list[str]] = {}
    for each in verdicts:
        if each.sliced:
            alike.setdefault(each.units, []).append(each.model_type)
        for kind, why in each.no_units:
            if kind not in ("experts", "expert_channels"):  # which is no lack where there are no experts
                reasons.setdefault((kind, why), []).append(each.model_type)
    kinds = get_args(Kind)
    most_first = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        "## What can be taken out inside their blocks",
        "",
        f"| {' | '.join(KINDS[kind] for kind in kinds)} | types |",
        f"|{'---|' * (len(kinds) + 1)}",
    ]
    for units, types in most_first:
        marks = " | ".join("yes" if kind in units else "" for kind in kinds)
        lines.append(f"| {marks} | {_listed(types)} |")
    lines += ["", "### Why some are missing", "", "| no | why | types |", "|---|---|---|"]
    lines += [
        f"| {KINDS[kind]} | {why} | {_listed(types)} |" for (kind, why), types in sorted(reasons.items())
    ]
    return [*lines, ""]


def written_table() -> str:
    """What the page says now."""
    return PAGE.read_text(encoding="utf-8").partition(MARKERS[0])[2].partition(MARKERS[1])[0]


def write_table() -> None:
    table = support_table([verdict(each) for each in causal_types()])
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    PAGE.write_text(before + begin + table + end + after, encoding="utf-8")


def _listed(types: list[str]) -> str:
    return ", ".join(f"`{each}`" for each in types)


def _version() -> str:
    return ".".join(transformers.__version__.split(".")[:2])

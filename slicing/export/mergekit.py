"""Configurations of mergekit that copy the blocks that are left out of the dense model.

What is copied is found by the weights themselves, so that nothing else is said than what is so. Format:
``mergekit.config.MergeConfiguration`` of mergekit 0.1: a slice names the half-open range of blocks that it
takes, and the method ``passthrough`` leaves every tensor as it is.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from analysis.anatomy import BRIDGED, NARROW, block_path, blocks
from analysis.errors import PlanError, UnsupportedError
from analysis.storage import whole_file
from slicing.export.base import TYPES, Dense, Export

NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Types of numbers, as mergekit calls them."""


class Mergekit(Export):
    """A YAML file."""

    name = "mergekit"
    title = "mergekit configuration"
    readers = "mergekit: 'mergekit-yaml FILE FOLDER' makes the model from the dense one"
    folder = False
    dtypes = ("own", *TYPES)
    needs_dense = True

    def check(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, dense: Dense | None = None) -> None:
        """Refuse whatever is more than a choice of whole blocks of the dense model."""
        kept_blocks(model, _given(dense))

    def write(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        path: Path,
        *,
        made_from: str,
        dtype: str | None = None,
        multiple: int = 1,
        dense: Dense | None = None,
    ) -> None:
        """Write the file; see ``Export.write``. The tokenizer is that of the dense model."""
        own = self.dtype(dtype)
        self.leave_widths(multiple)
        known = _given(dense)
        kept = kept_blocks(model, known)
        name = NAMES.get(own) or str(model.dtype).removeprefix("torch.")
        with whole_file(path) as draft:
            draft.write_text(_yaml(known.name, kept, name, made_from), encoding="utf-8")


def _given(dense: Dense | None) -> Dense:
    if dense is None:
        raise PlanError(
            f"The form '{Mergekit.name}' copies blocks out of the model that this one was made from: name it "
            "with '--dense', or give the key of the run, which knows it."
        )
    if "@" in dense.path:
        raise UnsupportedError(
            "mergekit reads what follows '@' as a revision, so that it finds no model in "
            f"'{dense.path}': move the model to a folder without that character."
        )
    return dense


def kept_blocks(model: Any, dense: Dense) -> list[int]:
    """The places in the dense model of the blocks that are left, in order.

    Raises ``UnsupportedError``, one sentence, where a weight is none of the dense model's.
    """
    kind, whole = model.config.model_type, dense.model
    if kind in ("sliced", BRIDGED, NARROW):
        why = {
            "sliced": "the stream of this model is sliced",
            BRIDGED: "this model has matrices in the place of blocks",
            NARROW: "this model is cut inside its blocks",
        }[kind]
        raise _unfit(why)
    if kind != whole.config.model_type:
        raise _unfit(f"this model is of the type '{kind}', and '{dense.name}' of '{whole.config.model_type}'")
    if getattr(whole.config, "layer_types", None):
        raise _unfit(
            f"the configuration of '{dense.name}' lists the type of every block, which it does not shorten"
        )
    _require_same_ends(model, dense)
    kept: list[int] = []
    candidates = list(blocks(whole))
    for place, block in enumerate(blocks(model)):
        own = block.state_dict()
        first = kept[-1] + 1 if kept else 0
        found = next(
            (at for at in range(first, len(candidates)) if _same(own, candidates[at].state_dict())), None
        )
        if found is None:
            raise _unfit(
                f"block {place} of this model is none of the blocks of '{dense.name}' that follow, since it "
                "was repaired, merged or cut"
            )
        kept.append(found)
    return kept


def _require_same_ends(model: Any, dense: Dense) -> None:
    """Refuse a model whose embedding, final norm or head are not the dense one's."""
    inside = f"{block_path(model)}."
    own = {name: each for name, each in model.state_dict().items() if not name.startswith(inside)}
    there = {name: each for name, each in dense.model.state_dict().items() if not name.startswith(inside)}
    if not _same(own, there):
        raise _unfit(f"its embedding, its final norm or its head is not that of '{dense.name}'")


def _same(own: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal, in the type of the first."""
    return own.keys() == other.keys() and all(
        each.shape == other[name].shape and torch.equal(each, other[name].to(each))
        for name, each in own.items()
    )


def _unfit(why: str) -> UnsupportedError:
    return UnsupportedError(
        f"mergekit can only copy whole blocks as they are, and {why}: write '--to hf', or remove whole "
        "blocks without a repair."
    )


def _yaml(model: str, kept: list[int], dtype: str, made_from: str) -> str:
    firsts = [kept[0], *(after for before, after in pairwise(kept) if after != before + 1)]
    lasts = [*(before for before, after in pairwise(kept) if after != before + 1), kept[-1]]
    lines = [f"# {' '.join(made_from.split())}; written by slicescope", "slices:"]
    for first, last in zip(firsts, lasts, strict=True):
        # A string of JSON is one of YAML, whatever is in it.
        lines += [
            "  - sources:",
            f"      - model: {json.dumps(model)}",
            f"        layer_range: [{first}, {last + 1}]",
        ]
    return "\n".join([*lines, "merge_method: passthrough", f"dtype: {dtype}", ""])

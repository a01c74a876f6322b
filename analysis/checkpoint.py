"""Compare a checkpoint's weights with its configuration, by their names and headers.

A configuration may be wrong about whether head and embedding are one table, or about how many blocks there
are. Then the weights are right. Knows nothing about where a model comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from analysis.anatomy import block_path, blocks
from analysis.errors import ModelError
from analysis.late import torch, transformers

if TYPE_CHECKING:
    from torch import nn

_ROWS = 4096
"""Rows of two tables that are compared at a time."""


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor in a folder's safetensors, by its name; reads headers only."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def settle_tables(config: Any, folder: Path) -> bool:
    """Let ``config`` say whether head and embedding are one table, as the weights in ``folder`` have it.

    They are two where both are stored and differ, and one where both are stored and are equal. Where one is
    stored, the configuration is believed. Returns whether it was changed.
    """
    text = config.get_text_config(decoder=True)
    one = _one_table(config, folder)
    said = {bool(getattr(each, "tie_word_embeddings", False)) for each in (config, text)}
    if one is None or said == {one}:
        return False
    config.tie_word_embeddings = text.tie_word_embeddings = one
    return True


def refuse_extra_blocks(label: str, model: Any, names: Iterable[str]) -> None:
    """Raise ``ModelError`` where the weights of these names are of more blocks than the model has.

    Blocks that only predict further tokens, which transformers leaves out too, do not count.
    """
    path, count = block_path(model), len(blocks(model))
    text = model.config.get_text_config(decoder=True)
    passed = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    short = path.removeprefix(f"{model.base_model_prefix}.")
    pattern = re.compile(rf"(?:{re.escape(path)}|{re.escape(short)})\.(\d+)\.")
    found = [(pattern.match(name), name) for name in names]
    places = {int(m[1]) for m, name in found if m and not any(each.search(name) for each in passed)}
    held = max(places, default=-1) + 1
    if held > count + (getattr(text, "num_nextn_predict_layers", None) or 0):
        raise ModelError(
            f"The weights of '{label}' are of {held} blocks, and its configuration says {count}, so blocks "
            "would be left out: correct the number in its config.json, or fetch or save the model again."
        )


_LARGER, _PACKED = 4, 64
"""How many times as many numbers as the weights hold a model may ask for: plain ones, and quantised ones."""
_SLACK = 2**22
_MOST_BYTES = 2**34
"""Of tables that are made rather than read, such as those of positions."""


def refuse_larger(label: str, skeleton: nn.Module, folder: Path) -> None:
    """Raise ``ModelError`` where a configuration asks for a model that its weights could never fill.

    transformers would make up all that is missing first, in memory that nobody has.
    """
    held = sum(_elements(folder).values())
    wanted = sum(parameter.numel() for parameter in skeleton.parameters())
    quantised = getattr(skeleton.config, "quantization_config", None) is not None
    if held and wanted > held * (_PACKED if quantised else _LARGER) + _SLACK:
        raise ModelError(
            f"The configuration of '{label}' asks for {wanted:,} weights, and its files hold {held:,}: "
            "correct the numbers in its config.json, or fetch or save the model again."
        )
    tables = sum(buffer.numel() * buffer.element_size() for buffer in skeleton.buffers())
    if tables > _MOST_BYTES:
        raise ModelError(
            f"The configuration of '{label}' asks for tables of {tables / 1e9:,.0f} GB beside the weights: "
            "correct the numbers in its config.json, or fetch or save the model again."
        )


def _elements(folder: Path) -> dict[str, int]:
    """How many numbers each tensor in a folder's safetensors has; reads headers only."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def refuse_left_out(label: str, model: Any, names: Iterable[str]) -> None:
    """Raise ``ModelError`` where weights that no parameter took belong to the model as it was trained.

    Those are extra blocks, unknown parts of blocks, and weights or biases that parts of the model lack. What
    stands beside the model (towers for images, heads for other tasks, old buffers) is passed by.
    """
    names = sorted(names)
    if not names or getattr(model.config, "quantization_config", None) is not None:
        return
    refuse_extra_blocks(label, model, names)
    modules = dict(model.named_modules())
    inside = tuple(f"{block_path(model)}.{place}." for place in range(len(blocks(model))))
    left = [name for name in names if _belongs(name, modules, inside)]
    if left:
        raise ModelError(
            f"The model '{label}' holds {len(left)} of its own weights that its configuration does not ask "
            f"for (the first is '{left[0]}'), so a part of it would be left out: correct its config.json, or "
            "fetch or save it again."
        )


def _belongs(name: str, modules: dict[str, nn.Module], inside: tuple[str, ...]) -> bool:
    path, _, last = name.rpartition(".")
    if path in modules:
        return last in ("weight", "bias") and "weight" in modules[path]._parameters  # no mask of attention
    return last == "weight" and name.startswith(inside)


def _one_table(config: Any, folder: Path) -> bool | None:
    """Whether the stored head and the stored embedding are equal; ``None`` where not both are stored."""
    kind = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
    pairs = getattr(kind, "_tied_weights_keys", None)
    if not isinstance(pairs, dict):
        return None
    files = weight_files(folder)
    for pair in pairs.items():
        stored = [_stored(name, files) for name in pair]
        if None not in stored:
            states = [(files[name], name, files[name].stat().st_mtime_ns) for name in stored if name]
            return _equal(*states)
    return None


def _stored(name: str, files: dict[str, Path]) -> str | None:
    """The name under which a parameter is stored: prefixes differ between versions."""
    tail = ".".join(name.split(".")[-2:])
    found = [each for each in files if each == tail or each.endswith(f".{tail}")]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=64)
def _equal(one: tuple[Path, str, int], other: tuple[Path, str, int]) -> bool:
    """Whether two tensors are equal, read until they differ; the time of change is a part of the question."""
    with safe_open(one[0], "pt") as first, safe_open(other[0], "pt") as second:
        left, right = first.get_slice(one[1]), second.get_slice(other[1])
        if (left.get_shape(), left.get_dtype()) != (right.get_shape(), right.get_dtype()):
            return False
        places = range(0, left.get_shape()[0], _ROWS)
        rows = ((part[at : at + _ROWS].view(torch.uint8) for part in (left, right)) for at in places)
        return all(torch.equal(*pair) for pair in rows)

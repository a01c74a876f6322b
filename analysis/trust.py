"""Refuse model files that lead to other files, to foreign code, or to sizes that no model has.

Knows nothing about where a model comes from. Everything here is asked before transformers builds anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.errors import ModelError
from analysis.fetch import ADAPTER, INDEX, SMALL, WHOLE, weight_names
from analysis.sources.folder import CONSOLIDATED, adapter_told, consolidated_told

_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Weights in pieces of each process that trained them; transformers prefers them to all others."""
_OURS = "correct its config.json, or fetch or save the model again"


def require_plain_folder(folder: Path, label: str) -> None:
    """Raise ``ModelError`` where a model's folder leads to other weights, or holds what is no regular file.

    transformers would follow an adapter to another model. Pipes and devices would never end.
    """
    for path in folder.iterdir():
        if path.name == ADAPTER:
            raise ModelError(adapter_told(folder, label))
        if path.name.endswith((*SMALL, ".safetensors")) and not (path.is_file() or path.is_dir()):
            raise ModelError(
                f"'{path.name}' of the model '{label}' is not a file: fetch or save the model again."
            )
        if _DISTRIBUTED.fullmatch(path.name):
            raise ModelError(
                f"The model '{label}' holds pieces of a distributed checkpoint ('{path.name}'), which are "
                "not read here: save the model again with 'save_pretrained'."
            )


def require_own_weights(folder: Path, label: str) -> None:
    """Raise ``ModelError`` unless a model's weights are safetensors files that lie in its folder.

    transformers would follow an index to pickled files and out of the folder.
    """
    if (folder / WHOLE).is_file():
        return
    if not (folder / INDEX).is_file():
        if any(folder.glob(CONSOLIDATED)):
            raise ModelError(consolidated_told(label))
        raise ModelError(
            f"The model '{label}' holds no safetensors weights ({WHOLE} or {INDEX}), and pickled ones (.bin, "
            ".pt) are never opened: save the model again with 'save_pretrained'."
        )
    absent = [name for name in weight_names(folder, label) if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"The model '{label}' lacks its weights '{absent[0]}': fetch or save it again.")


# What runs a model is chosen here and not by its configuration: other names lead to code on the Hub.
_ATTENTION = ("eager", "sdpa")
_EXPERTS = ("eager", "grouped_mm", "batched_mm")
_LEADING = ("transformers_weights", "fusion_config", "auto_map", "kernel_config", "use_kernels")
"""Fields that name files of weights, classes or kernels."""


def pin(config: Any) -> Any:
    """Take out of a configuration, and of those inside it, what lets transformers fetch or import code.

    Attention and experts then are computed by torch. Changes ``config`` and returns it.
    """
    for each in _nested(config):
        if each._attn_implementation not in _ATTENTION:
            each._attn_implementation_internal = None  # transformers then chooses one of these itself
        if each._experts_implementation not in _EXPERTS:
            each._experts_implementation_internal = None
        for name in _LEADING:
            each.__dict__.pop(name, None)
    return config


def _nested(config: Any) -> Iterator[Any]:
    """A configuration and all that are held by it, under whatever name."""
    from transformers import PreTrainedConfig

    seen: set[int] = set()
    waiting = [config]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, PreTrainedConfig):
            yield each
            waiting += vars(each).values()
        elif isinstance(each, list | tuple):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.values()


# Numbers. The largest models that exist are far below every bound.

MOST_BLOCKS = 1_024
MOST = 2**22
"""Entries of a vocabulary, widths, heads and experts."""
MOST_ROWS = 2**28
"""Positions, and rows of tables beside the embedding."""
_BLOCKS = re.compile(r"(num|n)_?(\w+_)?(layers?|blocks|hidden_layers)|num_hidden_groups")
_SIZES = re.compile(
    r"vocab_size|hidden_size\w*|\w+_hidden_size|d_model|n_embd|n_head|n_inner|emb_dim|d_inner"
    r"|\w*intermediate_size\w*|\w*ffn_dim|ffn_hidden_size|(num|n)_\w*heads\w*|\w*head_dim|embedding_size"
    r"|(num|n)_\w*experts|\w*embed_dim|state_size|\w*_rank"
)
_TABLES = re.compile(
    r"\w+_vocab_size\w*|max_position_embeddings|n_positions|max_seq_len|max_sequence_length|n_ctx"
)
_CORE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
"""Of these a language model has at least one."""
_TEXT = ("text_config", "decoder", "thinker_config")
"""Parts of a configuration that hold those of a language model."""


def read_settings(path: Path, label: str) -> dict[str, Any]:
    """Read a ``config.json`` and check its numbers (``ModelError`` in one sentence)."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"The model '{label}' cannot be read: its config.json cannot be opened ({error.strerror}); "
            "fetch or save it again."
        ) from None
    except (ValueError, RecursionError):
        raise ModelError(
            f"The model '{label}' cannot be read: its config.json is not a valid JSON file; fetch or save it "
            "again."
        ) from None
    if not isinstance(said, dict):
        raise ModelError(
            f"The model '{label}' cannot be read: its config.json holds no settings; fetch or save it again."
        )
    if "configuration_files" in said:
        raise ModelError(
            f"The configuration of '{label}' leads to other files (configuration_files), which are not read: "
            f"{_OURS}."
        )
    check_numbers(said, label)
    return said


def check_numbers(said: dict[str, Any], label: str, core: bool = True) -> None:
    """Raise ``ModelError`` where a size in a configuration is no whole number, or one that no model has."""
    for name, value in said.items():
        bounds = _bounds(name, core)
        if isinstance(value, dict):
            check_numbers(value, label, core and name in _TEXT)
        elif bounds is not None:
            for each in value if isinstance(value, list) else [value]:
                _check_number(name, each, bounds, label, core and name in _CORE)


def _bounds(name: str, core: bool) -> tuple[int, int] | None:
    least = int(core and name in _CORE)
    if _BLOCKS.fullmatch(name):
        return least, MOST_BLOCKS
    if _SIZES.fullmatch(name):
        return least, MOST
    return (0, MOST_ROWS) if _TABLES.fullmatch(name) else None


def _check_number(name: str, value: Any, bounds: tuple[int, int], label: str, needed: bool) -> None:
    if value is None and not needed:
        return
    least, most = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        shown = json.dumps(value)[:40]
        raise ModelError(
            f"The configuration of '{label}' says {name} = {shown}, but that has to be a whole number from "
            f"{least} to {most:,}: {_OURS}."
        )

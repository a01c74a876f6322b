"""What a DeciLM configuration (``nemotron-nas``) may say of its blocks, so that they are built as it says."""

from __future__ import annotations

from typing import Any

from analysis.errors import ModelError

DECILM = "nemotron-nas"
"""The type of its configurations."""
_SIZES = {"attention": ("n_heads_in_group",), "ffn": ("intermediate_size", "ffn_mult")}
"""The parts of a block, and what may say how large each is."""
_AGAIN = "fetch or save it again"


def check_blocks(said: dict[str, Any], label: str) -> None:
    """Raise ``ModelError`` where ``block_configs`` of a ``config.json`` says what is not built here.

    Settings of other tools that are off (null, false or zero) change nothing and are passed over.
    """
    listed, count = said.get("block_configs"), said.get("num_hidden_layers")
    if not isinstance(listed, list) or len(listed) != count:
        raise ModelError(
            f"The model '{label}' is a DeciLM whose block_configs do not describe each of its {count} "
            f"blocks: {_AGAIN}."
        )
    for place, block in enumerate(listed):
        for part, sizes in _SIZES.items():
            own = block.get(part) if isinstance(block, dict) else None
            problem = _problem(own, part, sizes)
            if problem:
                raise ModelError(f"The model '{label}' is a DeciLM whose block {place} {problem}.")


def _problem(own: Any, part: str, sizes: tuple[str, ...]) -> str:
    """The end of a sentence about a part of a block; empty where it is built as it says."""
    if not isinstance(own, dict):
        return f"says nothing of its '{part}': {_AGAIN}"
    if name := next((name for name, value in own.items() if value and name not in (*sizes, "no_op")), ""):
        return (
            f"sets '{part}.{name}', which slicescope does not build (it knows no_op, {', '.join(sizes)}): "
            "open it with the tool that wrote it, or export the model that it was made from with 'slicescope "
            "export --to deci'"
        )
    if not own.get("no_op") and not any(own.get(name) for name in sizes):
        return f"does not say how large its '{part}' is: {_AGAIN}"
    return ""

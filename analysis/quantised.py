"""Quantised weights: what a configuration says about them, and whether they can be turned into plain ones.

Slicing and removing blocks change weights as numbers, so they need plain ones. Knows no model and opens none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.errors import one_line

if TYPE_CHECKING:
    import torch

_NAMES = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "mxfp8": "MXFP8",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "quanto": "Quanto",
    "torchao": "torchao",
    "compressed-tensors": "compressed-tensors",
}
_TO_PLAIN = ("fp8", "mxfp8", "mxfp4")
"""Methods whose weights transformers turns into plain ones while it reads them, without a further package."""
_BITS = ("bits", "w_bit", "nbits")
_WORD = re.compile(r"[\w.+-]{1,40}", re.ASCII)


class Quantisation(NamedTuple):
    """How the weights of a model are quantised."""

    name: str
    """The method, with its bits where they are said."""
    becomes_plain: bool
    """Whether the weights are plain numbers once the model is open."""


def quantisation_of(config: Any) -> Quantisation | None:
    """Say how a configuration tells that weights are quantised; ``None`` where they are plain."""
    settings = _settings(config)
    if settings is None:
        return None
    method = str(settings.get("quant_method") or "").removesuffix("_4bit").removesuffix("_8bit")
    bits = next((settings[name] for name in _BITS if _is_width(settings.get(name))), None)
    for wide in (4, 8):
        if settings.get(f"load_in_{wide}bit") or str(settings.get("quant_method")).endswith(f"_{wide}bit"):
            method, bits = method or "bitsandbytes", wide
    # The name stands in sentences, so that only a word of a configuration becomes a part of one.
    name = _NAMES.get(method) or (method if _WORD.fullmatch(method) else "an unnamed method")
    return Quantisation(f"{name}, {bits} bits" if bits else name, method in _TO_PLAIN)


def _is_width(bits: object) -> bool:
    return isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 32


def make_plain(config: Any) -> bool:
    """Have transformers turn the weights into plain numbers as it reads them. False where it cannot."""
    found = quantisation_of(config)
    if found is None or not found.becomes_plain:
        return False
    for each in (config, config.get_text_config(decoder=True)):
        if isinstance(settings := getattr(each, "quantization_config", None), dict):
            each.quantization_config = {**settings, "dequantize": True}
    return True


def why_not_plain(config: Any, made_from: str | None = None) -> str | None:
    """Say why slicing and removing cannot work on a model's weights, and what to do; ``None`` where they can.

    ``made_from`` names the model that it was quantised from, where that is known.
    """
    found = quantisation_of(config)
    if found is None or found.becomes_plain:
        return None
    origin = (
        f"open '{made_from}', from which it was made" if made_from else "open the model that it was made from"
    )
    return (
        f"The weights of this model are quantised ({found.name}), and slicing and removing blocks need plain "
        f"ones: {origin}."
    )


def why_not_readable(config: Any, device: torch.device) -> str | None:
    """Say why transformers cannot read quantised weights here, in its own words; ``None`` where it can."""
    found = quantisation_of(config)
    if found is None or found.becomes_plain:
        return None
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        reader = AutoHfQuantizer.from_config(_settings(config) or {}, pre_quantized=True)
        reader.validate_environment(device_map={"": device})
    except Exception as error:  # each method has its own way to say what it lacks
        return f"its weights are quantised ({found.name}), which cannot be read here ({one_line(error)})"
    return None


def _settings(config: Any) -> dict[str, Any] | None:
    for each in (config, config.get_text_config(decoder=True)):
        settings = getattr(each, "quantization_config", None)
        if settings is not None:
            return settings if isinstance(settings, dict) else dict(settings.to_dict())
    return None

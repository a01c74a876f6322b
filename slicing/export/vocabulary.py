"""A tokenizer in the terms of GGUF: tokens, their kinds, merges, and how text is cut before the merges.

llama.cpp cuts text by rules that have names. A name is given only where the tokenizer's own rules are those
of that name, rule by rule; other tokenizers are refused, since llama.cpp would read text differently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from analysis.errors import UnsupportedError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens, as GGUF numbers them."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True)
class Rule:
    """How a tokenizer cuts text before its merges."""

    steps: tuple[dict[str, Any], ...]
    """Its pre-tokenizers, in order."""
    whole: bool = False
    """Whether a piece that is a token stays one, whatever the merges."""
    normal: str | None = None
    """The form of Unicode that text is brought into first, which llama.cpp leaves out."""


RULES: dict[str, Rule] = {
    "gpt-2": Rule((_WORDS,)),
    "smollm": Rule(({"type": "Digits", "individual_digits": True}, _WORDS)),
    "llama-bpe": Rule((_split(_LLAMA3), _BYTES), whole=True),
    "qwen2": Rule((_split(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), _BYTES), normal="NFC"),
}
"""By the name that llama.cpp has for them (``tokenizer.ggml.pre``)."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    rule: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    special: dict[str, int]
    """Places of tokens by their role: bos, eos, unk, pad."""
    add_bos: bool
    add_eos: bool
    template: str | None


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer, for an embedding table of ``size`` rows.

    Raises ``UnsupportedError`` for any other tokenizer, and for one with more tokens than the table has rows.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise _unfit("it is none of the library 'tokenizers'")
    said = json.loads(core.to_str())
    rule, model = _rule(said), said["model"]
    tokens: list[str | None] = [None] * max(size, len(tokenizer))
    kinds = [UNUSED] * len(tokens)
    for token, place in model["vocab"].items():
        tokens[place], kinds[place] = token, NORMAL
    for each in said["added_tokens"]:
        tokens[each["id"]] = each["content"]
        kinds[each["id"]] = CONTROL if each["special"] else USER_DEFINED
    if len(tokens) > size:
        raise UnsupportedError(
            f"The tokenizer has {len(tokens):,} tokens and the model {size:,}, so that 'gguf' cannot be "
            "written: give the model the tokenizer that belongs to it."
        )
    merges = (each if isinstance(each, str) else " ".join(each) for each in model["merges"])
    add_bos, add_eos = _ends(tokenizer)
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "unk", "pad")}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    return Vocabulary(
        rule,
        tuple(f"[PAD{place}]" if token is None else token for place, token in enumerate(tokens)),
        tuple(kinds),
        tuple(merges),
        {role: place for role, place in roles.items() if place is not None},
        add_bos,
        add_eos,
        template,
    )


def _rule(said: dict[str, Any]) -> str:
    """The name of the rules of this tokenizer (``UnsupportedError``)."""
    model = said["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unfit("it is no BPE of bytes")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _unfit("its tokens carry marks of where a word continues or ends")
    if not model["merges"]:
        raise _unfit("it has no merges")
    steps = [_settings(each) for each in _listed(said["pre_tokenizer"], "pretokenizers")]
    normalizers = [each["type"] for each in _listed(said["normalizer"], "normalizers")]
    for name, rule in RULES.items():
        normal = [rule.normal] if rule.normal else []
        if (
            steps == list(rule.steps)
            and bool(model.get("ignore_merges")) == rule.whole
            and normalizers == normal
        ):
            return name
    raise _unfit("it cuts text in another way")


def _listed(part: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    """The members of a sequence; one thing alone is a sequence too."""
    if part is None:
        return []
    return part[inside] if part["type"] == "Sequence" else [part]


def _settings(step: dict[str, Any]) -> dict[str, Any]:
    """A pre-tokenizer without what changes no token."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}


def _ends(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether it puts a first and a last token around a text (``UnsupportedError`` for anything else)."""
    bare = list(tokenizer("a", add_special_tokens=False).input_ids)
    full = list(tokenizer("a").input_ids)
    for add_bos in (False, True):
        for add_eos in (False, True):
            first = [tokenizer.bos_token_id] if add_bos else []
            last = [tokenizer.eos_token_id] if add_eos else []
            if full == [*first, *bare, *last]:
                return add_bos, add_eos
    raise _unfit("it puts other tokens around a text than one at its start and one at its end")


def _unfit(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"This tokenizer cannot be written as 'gguf', since {reason}: its pre-tokenizer has to be one of "
        f"{', '.join(RULES)}; '--to deci' takes any."
    )

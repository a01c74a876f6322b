"""A classification task as examples: every text, and behind it the words of its label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from analysis.errors import TextError
from analysis.sources.labels import labelled_texts
from analysis.sources.text import TextSource
from analysis.sources.tokens import encode
from analysis.sources.windows import begun_by
from slicing.healing.examples import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = "a"
"""Any word: what stands in front of a label while its tokens are found."""


def labelled_examples(source: TextSource, tokenizer: PreTrainedTokenizerBase, length: int) -> Examples:
    """Make an example of every row of a table with labels, ``length`` tokens at most.

    It is the text, a space and the label. A longer text loses its beginning, so that the longest label still
    fits; a token that the tokenizer puts in front of every text stays. Raises ``TextError`` for a table that
    is no task, and where a label does not fit into ``length`` tokens.
    """
    texts = labelled_texts(source)
    names = sorted({each.label for each in texts})
    labels = _label_tokens(names, source, tokenizer)
    begin = _beginning(tokenizer)
    longest = max(range(len(names)), key=lambda place: len(labels[place]))
    room = length - len(begin) - len(labels[longest])
    if room < 1:
        raise TextError(
            f"The label '{names[longest]}' of '{source.label}' has {len(labels[longest]):,} tokens, and "
            f"windows of {length:,} leave no room for a text in front of it: choose longer windows or "
            "shorter labels."
        )
    bare = (encode(tokenizer, each.text.rstrip(), add_special_tokens=False).tolist() for each in texts)
    places = {name: place for place, name in enumerate(names)}
    rows = [[*begin, *tokens[-room:]] for tokens in bare]
    return Examples.labelled(rows, labels, [places[each.label] for each in texts])


def _label_tokens(
    names: Sequence[str], source: TextSource, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """The tokens of every label behind a space.

    Where one label begins another, as 1 begins 10, the end-of-text token ends all: the log-likelihood of the
    shorter one is else never the smaller.
    """
    alone = encode(tokenizer, _WORD, add_special_tokens=False).tolist()
    found = []
    for name in names:
        # Behind a word: some tokenizers put a space of their own in front of a text.
        whole = encode(tokenizer, f"{_WORD} {name}", add_special_tokens=False).tolist()
        joined = whole[: len(alone)] == alone
        found.append(
            whole[len(alone) :]
            if joined
            else encode(tokenizer, f" {name}", add_special_tokens=False).tolist()
        )
    clash = _first_clash(found)
    if clash is None:
        return found
    one, other = (names[place] for place in clash)
    end = tokenizer.eos_token_id
    ended = [[*tokens, end] for tokens in found]
    if not isinstance(end, int) or _first_clash(ended) is not None:
        raise TextError(
            f"The labels '{one}' and '{other}' of '{source.label}' begin with the same tokens to the end of "
            f"'{one}', and cannot be told apart: rename one of them."
        )
    return ended


def _first_clash(labels: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """The places of a label and of another that begins with all of it; ``None`` where there are none."""
    ordered = sorted(range(len(labels)), key=lambda place: list(labels[place]))
    for one, other in pairwise(ordered):  # what begins with a list sorts behind it
        if labels[other][: len(labels[one])] == labels[one]:
            return one, other
    return None


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that stand in front of every text: the tokenizer's own, or the BOS that a model needs."""
    whole = encode(tokenizer, _WORD).tolist()
    alone = encode(tokenizer, _WORD, add_special_tokens=False).tolist()
    front = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), 0)
    begin = begun_by(tokenizer)
    return whole[:front] or ([] if begin is None else [begin])

"""Cut a text into windows of tokens, and say where in the text each window lies.

Knows nothing about models or about what windows are for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from textwrap import shorten
from typing import TYPE_CHECKING

from analysis.errors import TextError
from analysis.late import functional, torch
from analysis.sources.demo_text import demo_addresses
from analysis.sources.ids import holds_tokens
from analysis.sources.text import TextSource
from analysis.sources.tokens import DOCUMENT_SEPARATOR, token_stream
from analysis.values import Value

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def token_windows(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int | None,
    seed: int | None = None,
    skip: int = 0,
) -> Tensor:
    """Cut windows of tokens, (count, length), int64: consecutive, without overlap, in the order of the text.

    The documents, joined by blank lines, are tokenised as one stream with the tokenizer's defaults, so that
    a token it puts at the beginning stands there once; the tail that fills no window is dropped. For the
    few models of ``BEGUN`` each window is BOS and length - 1 tokens of text instead. A file of tokens
    (``analysis.sources.ids``) is cut as it is, window behind window.
    Without ``seed`` the first ``count`` windows are taken, with it ``count`` windows drawn without
    replacement, the same for the same seed; ``count=None`` takes all. ``skip`` passes over as many windows
    of the draw, so that they and these have none in common. Raises ``TextError`` when the text
    cannot be read, holds too few tokens, or ``length`` is below 2 or ``count`` below 1.
    """
    if length < 2:
        raise TextError(f"A window of {length} tokens predicts nothing: ask for a length of 2 or more.")
    if count is not None and count < 1:
        raise TextError(f"{count} windows were asked for: ask for 1 or more.")
    begin = None if holds_tokens(source) else begun_by(tokenizer)
    own = length - (begin is not None)  # of a window, the tokens that are text
    wanted = skip + (count or 1)
    all_of_it = count is None or seed is not None
    stream = token_stream(source, tokenizer, None if all_of_it else 1 + wanted * own)
    if begin is not None and len(stream) and stream[0] == begin:
        stream = stream[1:]
    available = len(stream) // own
    if available < wanted:
        windows, need = ("windows", "need") if wanted > 1 else ("window", "needs")
        begun = "" if begin is None else ", each begun by BOS,"
        raise TextError(
            f"The text '{source.label}' holds {len(stream):,} tokens, but {wanted:,} {windows} of "
            f"{length:,}{begun} {need} {wanted * own:,}: ask for fewer or shorter windows, or give more text."
        )
    windows = stream[: available * own].view(available, own)
    if count is not None and seed is not None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(available, generator=generator)[skip : skip + count]
        windows = windows[drawn.sort().values].long()
    else:
        windows = windows[skip:][:count].long()
    return windows if begin is None else functional.pad(windows, (1, 0), value=begin)


BEGUN: dict[str, dict[str, int]] = {
    # Without it Gemma 7B has a perplexity of 5.9e9 on LAMBADA, with it 3.5, and Gemma 2 9B 2,645:
    # EleutherAI/lm-evaluation-harness, pull requests 1465 and 2049.
    "Gemma": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3},
}
"""Models that break down where a text does not begin with their BOS token, each by the first tokens of its
vocabulary: these stay the same whichever class or file a tokenizer comes from."""


def begun_by(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that every window begins with, for a tokenizer of ``BEGUN``; else ``None``."""
    for tokens in BEGUN.values():
        if tokenizer.convert_tokens_to_ids([*tokens]) == [*tokens.values()]:
            return tokens["<bos>"]
    return None


class Passage(Value):
    """Where in its text a window lies."""

    document: str
    """The document that holds the middle of the window."""
    begins: str
    """The window's first words."""


def passages(source: TextSource, tokenizer: PreTrainedTokenizerBase, windows: Tensor) -> tuple[Passage, ...]:
    """Say where the first windows of a text lie: (N, T), as ``token_windows`` gives them without a seed.

    They are found by the length of the decoded windows. Some tokenizers give text back a little changed, so
    that near the ends of a document the one beside it may be named.
    """
    decoded = tokenizer.batch_decode(windows, skip_special_tokens=True)
    if holds_tokens(source):  # which has no documents
        return tuple(
            Passage(document=f"window {number}", begins=shorten(text, 90, placeholder=" ..."))
            for number, text in enumerate(decoded)
        )
    ends = itertools.accumulate(map(len, decoded))
    middles = [end - len(text) // 2 for text, end in zip(decoded, ends, strict=True)]
    found: list[str] = []
    end = 0
    for name, text in zip(_names(source), source.documents(), strict=False):
        end += len(text) + len(DOCUMENT_SEPARATOR)
        while len(found) < len(middles) and middles[len(found)] < end:
            found.append(name)
        if len(found) == len(middles):
            break
    found += found[-1:] * (len(middles) - len(found))
    return tuple(
        Passage(document=name, begins=shorten(text, 90, placeholder=" ..."))
        for name, text in zip(found, decoded, strict=True)
    )


def count_documents(found: Iterable[Passage]) -> int:
    """Count the documents that windows come from: of each window, the one that holds its middle."""
    return len({each.document for each in found})


def _names(source: TextSource) -> Iterator[str]:
    """Name the documents: speaker and year for the demo text, for others their number from 1."""
    if source.kind != "demo":
        return (f"document {number}" for number in itertools.count(1))
    addresses = demo_addresses(source.split)
    return map("{} {}".format, addresses["president"], addresses["year"])

"""Turn a whole text into one stream of tokens, and cache the last few streams.

Knows nothing about windows.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.errors import ModelError, is_ours, one_line
from analysis.late import torch
from analysis.sources.files import require_file
from analysis.sources.ids import holds_tokens, read_tokens
from analysis.sources.text import TextSource

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

DOCUMENT_SEPARATOR = "\n\n"
"""A blank line between documents, as in the published WikiText-2 protocol."""

AT_ONCE = 2**26
"""Characters of a text that are tokenised in one go; a longer text takes too much memory that way."""
PIECE = 2**20
"""Characters of each piece of a longer text. Where pieces meet, a few tokens may differ."""


class _Stream(NamedTuple):
    """A text as tokens, (tokens,), int32, or its beginning."""

    tokens: Tensor
    whole: bool


_STREAMS_CACHED = 4
_streams: OrderedDict[tuple[Any, ...], _Stream] = OrderedDict()
_streams_lock = threading.Lock()


def token_stream(source: TextSource, tokenizer: PreTrainedTokenizerBase, needed: int | None) -> Tensor:
    """Return the whole text as tokens, (tokens,), int32, or of a long one at least ``needed`` tokens.

    The last few streams are cached. A file is read again when its size or date has changed; a data set on the
    Hub is, within one process, what it was when it was first read.
    """
    key = (source, _file_state(source), _tokenizer_state(tokenizer))
    # Held while tokenising, so that two threads never tokenise the same text.
    with _streams_lock:
        cached = _streams.get(key)
        if cached is None or not (cached.whole or (needed is not None and len(cached.tokens) >= needed)):
            _streams[key] = _tokenise(source, tokenizer, needed)
        _streams.move_to_end(key)
        while len(_streams) > _STREAMS_CACHED:
            _streams.popitem(last=False)
        return _streams[key].tokens


def _tokenise(source: TextSource, tokenizer: PreTrainedTokenizerBase, needed: int | None) -> _Stream:
    if holds_tokens(source):
        return _Stream(read_tokens(source).flatten(), whole=True)
    text = DOCUMENT_SEPARATOR.join(source.documents())
    if len(text) <= AT_ONCE:
        return _Stream(encode(tokenizer, text), whole=True)
    found: list[Tensor] = []
    for start, end in _pieces(text):
        found.append(encode(tokenizer, text[start:end], add_special_tokens=not found))
        if needed is not None and sum(map(len, found)) >= needed and end < len(text):
            return _Stream(torch.cat(found), whole=False)
    return _Stream(torch.cat(found), whole=True)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Say where the pieces of a long text begin and end: before a line's end or a space, if there is one."""
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            places = (text.rfind(each, start + PIECE // 2, end) for each in (DOCUMENT_SEPARATOR, "\n", " "))
            end = next((place for place in places if place > 0), end)
        yield start, min(end, len(text))
        start = end


def encode(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Tensor:
    """Turn a text into tokens, (tokens,), int32 (``ModelError`` where the tokenizer fails on it)."""
    with tokenizer_errors():
        # Not verbose: that the stream is longer than the model's context is the point, not a mistake.
        encoding = tokenizer(
            text, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
        )
        return torch.tensor(encoding["input_ids"], dtype=torch.int32)


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Turn whatever a tokenizer raises into one sentence (``ModelError``)."""
    try:
        yield
    except BaseException as error:  # what is written in Rust panics with a class outside of Exception
        if is_ours(error) or isinstance(error, MemoryError):
            raise
        raise ModelError(
            f"The model's tokenizer fails on this text ({one_line(error)}): fetch or "
            "save the tokenizer again."
        ) from error


def _file_state(source: TextSource) -> tuple[int, ...] | None:
    if source.kind != "file":
        return None
    status = require_file(source.location).stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash all that decides how text becomes tokens: a name alone would not tell two edits apart."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
    identity = (
        type(tokenizer).__name__,
        tokenizer.name_or_path,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        content,
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()

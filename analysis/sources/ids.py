"""Text that is tokens already: windows of token ids in a file of safetensors.

Knows nothing about tokenizers, or about what windows are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import TextError, one_line
from analysis.late import tensor_files, torch
from analysis.sources.files import TOKENS, require_file
from analysis.sources.text import TextSource

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "tokens"


def holds_tokens(source: TextSource) -> bool:
    """Tell whether a text is a file of tokens, by its name."""
    return source.kind == "file" and source.location.lower().endswith(TOKENS)


def require_windows(tokens: Tensor, called: str) -> Tensor:
    """Give token ids (N, T) as int32, ``called`` so in errors (``TextError`` for what are none)."""
    whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype is torch.bool)
    if not whole or tokens.ndim != 2 or not tokens.numel():
        kind = str(tokens.dtype).removeprefix("torch.")
        raise TextError(
            f"{called} must be whole numbers of the shape (windows, tokens in a window), but got {kind} of "
            f"the shape {tuple(tokens.shape)}: give token ids, or the text itself."
        )
    if int(tokens.min()) < 0:
        raise TextError(
            f"{called} must be token ids from 0 on, but the least is {int(tokens.min())}: leave out windows "
            "that are padded."
        )
    return tokens.to("cpu", torch.int32).contiguous()


def write_tokens(windows: Tensor, path: Path) -> None:
    """Write token ids (N, T) to a new file that is a text for ``token_windows``."""
    tensor_files.save_file({_NAME: windows}, path)


def read_tokens(source: TextSource) -> Tensor:
    """Read token ids (N, T), int32 (``TextError`` for a file without them)."""
    path = require_file(source.location)
    try:
        found: dict[str, Any] = tensor_files.load_file(path)
    except Exception as error:  # safetensors has an error class of its own
        raise TextError(
            f"The file '{path.name}' cannot be read ({one_line(error)}): write it again."
        ) from error
    if _NAME not in found:
        raise TextError(
            f"The file '{path.name}' holds no tensor '{_NAME}' of token ids: give a text file, a table, or "
            "such a file."
        )
    return require_windows(found[_NAME], f"The tokens in '{path.name}'")

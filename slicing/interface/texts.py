"""Texts as users give them: by name, as strings, or as windows of tokens.

Strings and windows become files, named by what they hold, so that runs on them are like all others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from analysis.errors import PlanError, TextError
from analysis.late import torch
from analysis.sources.files import TOKENS
from analysis.sources.ids import require_windows, write_tokens
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from analysis.storage import cache_folder, storage_errors, whole_file

if TYPE_CHECKING:
    from torch import Tensor

    TextLike: TypeAlias = "str | Path | Sequence[str] | Tensor | np.ndarray | TextSource"
"""What every verb takes as a text."""
LENGTH, USUAL = 512, 16
"""Tokens in a window, and windows, where neither the user nor the text says another number."""


class Texts:
    """Reads the texts of one call, and finds out how long windows are."""

    def __init__(self, window_length: int | None, folder: Path | None) -> None:
        """``folder``: where strings and windows are kept as files; ``None`` for the cache folder."""
        if window_length is not None:
            window_length = self.windows("tokens in a window (window_length)", window_length)
        self._asked, self._found, self._folder = window_length, None, folder
        self.count: int | None = None
        """How many windows the last text that was windows of tokens has."""

    @property
    def window_length(self) -> int:
        """Tokens in a window: what was asked for, else the length of the windows that were given."""
        return self._asked or self._found or LENGTH

    def read(self, text: Any, role: Role) -> TextSource:
        """Say where a text is (``TextError``); ``role`` chooses the split of one that has several."""
        self.count = None
        if isinstance(text, TextSource):
            return text
        if isinstance(text, os.PathLike):
            return TextSource.parse(os.fspath(text), role)
        if isinstance(text, str):
            return _named(text, role)
        if isinstance(text, torch.Tensor | np.ndarray):
            return self._windows(torch.as_tensor(text))
        if isinstance(text, Sequence) and text and all(isinstance(each, str) for each in text):
            return self._strings(text)
        kind = "an empty list" if isinstance(text, Sequence) and not text else type(text).__name__
        raise TextError(
            "A text is a name (a file, a data set, 'demo'), a list of strings, or a tensor of token ids "
            f"(windows, tokens), but got {kind}: give one of these."
        )

    def windows(self, what: str, asked: Any, usual: int | None = None) -> int:
        """Say how many windows of the last text are read (``PlanError`` for no such number).

        Those that were ``asked`` for, or else the ``usual`` number, or all of windows that were given.
        """
        if asked is None:
            return min(usual or self.count or USUAL, self.count or usual or USUAL)
        if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 1:
            raise PlanError(
                f"The number of {what} must be a whole number from 1 on; got {asked!r}: correct it."
            )
        return int(asked)

    def beside(self, text: Any, evaluation: Any) -> TextSource:
        """Say where the text is that models are judged on.

        Where none is named, it is the part for evaluation of the text that they are made on; a text without
        such a part takes a second one (``TextError``).
        """
        if evaluation is not None:
            return self.read(evaluation, "evaluation")
        self.count = None
        name, _, split = text.strip().partition(":") if isinstance(text, str) else ("", "", "")
        if name in ("demo", *PRESETS):
            return TextSource.parse(name, "evaluation")
        if name and not split and (found := TextSource.parse(name, "evaluation")).kind == "hub":
            return found
        raise TextError(
            "There is no text to judge models on: name one that calibration does not see, as in "
            "evaluation='other.txt'."
        )

    def _windows(self, tokens: Tensor) -> TextSource:
        windows = require_windows(tokens, "Windows of tokens")
        self.count, self._found = windows.shape
        content = f"{tuple(windows.shape)}".encode() + windows.numpy().tobytes()
        return self._kept("windows", TOKENS, content, lambda path: write_tokens(windows, path))

    def _strings(self, documents: Sequence[str]) -> TextSource:
        lines = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
        return self._kept("text", ".jsonl", lines, lambda path: path.write_bytes(lines))

    def _kept(self, what: str, suffix: str, content: bytes, write: Callable[[Path], Any]) -> TextSource:
        """The file that holds ``content``, written where it is not there yet."""
        folder = (self._folder or cache_folder()) / "texts"
        path = folder / f"{what}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
        if not path.is_file():
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                write(draft)
        return TextSource(kind="file", location=str(path.resolve()))


def _named(text: str, role: Role) -> TextSource:
    if "\n" in text or len(text) > 200:
        raise TextError(
            f"A string names a text, as on the command line, but got {len(text):,} characters that look like "
            "a text itself: give a list, as in text=[it]."
        )
    return TextSource.parse(text, role)

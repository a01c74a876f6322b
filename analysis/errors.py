"""The errors of slicescope, as one family.

    SlicescopeError             exit code 1
    ├── ModelError              3  a model that cannot be found, read or handled
    │   ├── UnsupportedError    3  the model is fine, but this operation does not hold for it
    │   └── NotFiniteError      3  what was computed is NaN or infinite
    ├── TextError               4  a text that cannot be found, read, or is too short
    ├── PlanError               5  a target, base or bound that no schedule can meet
    ├── StorageError            6  a folder that cannot be read or written
    ├── OutOfMemoryError        7  the device ran out of memory
    └── Cancelled             130  the user stopped the job

Every message is one sentence for a person: what, what was got, what is allowed, what to do next.
Exit code 2 is the command line's own, for flags it cannot parse.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class SlicescopeError(Exception):
    """Base of every error that is meant to be read by a person."""

    exit_code = 1

    def __str__(self) -> str:
        return brief(super().__str__())


class ModelError(SlicescopeError):
    """A model that cannot be found, read or handled."""

    exit_code = 3


class UnsupportedError(ModelError):
    """The model can be read, but the operation asked for does not hold for its architecture."""


class TextError(SlicescopeError):
    """A text that cannot be found or read, or that is too short for the windows asked for."""

    exit_code = 4


class PlanError(SlicescopeError):
    """A target, base, bound or width that no schedule can meet."""

    exit_code = 5


class StorageError(SlicescopeError):
    """A folder or file of ours that cannot be read or written."""

    exit_code = 6


class NotFiniteError(ModelError):
    """Tell that a result is NaN or infinite: the dtype is too narrow, or the weights are broken."""


class OutOfMemoryError(SlicescopeError):
    """The device ran out of memory; the message names the levers."""

    exit_code = 7


class Cancelled(SlicescopeError):
    """The user stopped the job; raised from a progress callback, never by the computation."""

    exit_code = 130


def is_ours(error: BaseException) -> bool:
    """Tell whether an error is one of the family, or ends the process or thread: it is to be passed on.

    What is written in Rust panics with a class outside of ``Exception``, so such a class alone tells nothing.
    """
    return isinstance(error, SlicescopeError | KeyboardInterrupt | SystemExit | GeneratorExit)


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that do something to a terminal or to the direction of writing, in place of being seen; and
halves of characters, which stand for bytes that are no text."""


def visible(text: str) -> str:
    """The text with control characters written out, such as ``\\x1b``; lines and tabs stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_LONGEST_WORD, _LONGEST = 300, 900
"""Characters of a word, and of what is told about one error."""


def brief(text: str) -> str:
    """The text with the middle of very long words left out, and of all of it where it still is very long.

    An error quotes what was given, and anything can be given; how it begins and what to do next stay.
    """
    text = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:100]}...{word[0][-100:]}", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def one_line(error: BaseException) -> str:
    """The first line of another library's error, without the ending full stop.

    A line that ends in a colon announces the next one, which then belongs to it.
    """
    if isinstance(error, KeyError):
        return f"there is no entry {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return text.rstrip(" .,:!") or type(error).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not in a registry, with the nearest one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names)}."

"""Text that is none of ours, as Markdown that shows it as it is; and ours without its Markdown."""

from __future__ import annotations

import re

from analysis.errors import visible

_MARKDOWN = re.compile(
    r"[\\`*_\[\]<>$~#|!&]|^[-+=]|:(?=\S)|(?<=://)|(?<=:)(?=[\w+/-]+:)|(?<=www)(?=\.)|(?=@)"
)


_ARROWS = re.compile(r"(?<!\S)([<>~-])(?=(->|>|-|=)(?!\S))")


_NUMBERED = re.compile(r"^(\d+)(?=[.)](\s|$))")


_BREAK = "\N{WORD JOINER}"
"""Seen by nobody; but with it inside, an address is no link, and a name between colons no picture."""


def verbatim(text: str) -> str:
    """The text as a line of Markdown that shows it as it is: what people, files and addresses say is never
    markup.
    """
    line = _ARROWS.sub(rf"\1{_BREAK}", re.sub(r"[ \t\r\n]+", " ", visible(text)).strip(" "))
    marked = _MARKDOWN.sub(lambda found: f"\\{found[0]}" if found[0] else _BREAK, line)
    return _NUMBERED.sub(r"\1\\", marked)


def without_colours(markdown: str) -> str:
    """A sentence of ours without the colours that Markdown gives it."""
    return re.sub(r":\w+\[(.*?)\]", r"\1", markdown)

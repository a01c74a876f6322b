"""The pages of the documentation, read as what a reader clicks, copies and runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
import typer.main

from app.cli import app

ROOT = Path(__file__).parents[1]
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "spaces").glob("*.md")]))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MARK = re.compile(r"<!-- runs: ([^\n]+?) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code, and where it stands."""

    language: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """All blocks of code of a page."""
    for found in _FENCE.finditer(text):
        yield Block(found[1], found[2], text[: found.start()].count("\n") + 1)


def prose(text: str) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """The targets of all links and pictures of a page, but those in code."""
    return _LINK.findall(_SPAN.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """What can stand behind '#' in a link to the page, as GitHub makes it of the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    bare = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.strip().replace(" ", "-") for title in bare}


def to_run(text: str) -> dict[str, str]:
    """The Python blocks that are marked to be run, by their names."""
    return dict(_MARK.findall(text))


def commands(text: str) -> Iterator[list[str]]:
    """The commands of slicescope in blocks of code, in words, without comments and variables in front."""
    for block in blocks(text):
        if block.language in ("", "bash", "sh"):
            yield from commands_of(block.text)


def commands_of(block: str) -> Iterator[list[str]]:
    """The commands of slicescope in the text of one block; a quoted argument may go on on the next line."""
    pending = ""
    for line in block.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if pending.endswith("\\"):
            continue
        try:
            words = shlex.split(pending.replace("\\\n", " "), comments=True)
        except ValueError:  # the quotation goes on
            continue
        pending = ""
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == ["slicescope"]:
            yield words
    assert not pending, f"this never ends: {pending}"


def spans(text: str) -> Iterator[list[str]]:
    """The commands of slicescope within sentences and tables: a word of small letters follows the name."""
    for found in _SPAN.findall(prose(text)):
        if re.match(r"slicescope [a-z]", found):
            yield shlex.split(found)


def parse(words: list[str], whole: bool = True) -> dict[str, Any]:
    """Read a command as the command line does, without carrying it out; raises where it would be refused.

    ``whole``: whether what is required has to be given.
    """
    command: Any = typer.main.get_command(app)
    left, context = words[1:], None
    while True:
        context = command.context_class(command, info_name="slicescope", parent=context)
        context.resilient_parsing = not whole
        try:
            command.parse_args(context, list(left))
        except typer.Exit:  # a flag that prints something and ends
            return context.params
        if not hasattr(command, "commands"):
            return context.params
        left = [*context._protected_args, *context.args]
        if not left:
            return context.params
        _, command, left = command.resolve_command(context, left)

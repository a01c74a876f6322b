"""The page of all commands, made from the declarations of the command line.

``python tests/cli_page.py --write`` writes it into docs/cli.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from app.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARKERS = ("<!-- commands: begin -->\n", "<!-- commands: end -->\n")


def cli_page() -> str:
    """Write all commands with their arguments and options, as the text of the page between the markers."""
    program = typer.main.get_command(app)
    lines = ["| command | what it does |", "|---|---|"]
    found = list(_commands(program, "slicescope"))
    lines += [f"| [`{words}`](#{words.replace(' ', '-')}) | {_first_line(each)} |" for words, each in found]
    lines += ["", "Options in front of a command:", "", *_table(program, "slicescope")]
    for words, each in found:
        paragraphs = [" ".join(part.split()) for part in (each.help or "").split("\n\n")]
        lines += ["", f"## `{words}`", "", "\n\n".join(paragraphs)]
        lines += ["", *_table(each, words)]
    return "\n".join([*lines, ""])


def written_page() -> str:
    """What the page says now."""
    return PAGE.read_text(encoding="utf-8").partition(MARKERS[0])[2].partition(MARKERS[1])[0]


def write_page() -> None:
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    PAGE.write_text(before + begin + cli_page() + end + after, encoding="utf-8")


def _commands(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    for name, each in group.commands.items():
        if not each.hidden:
            yield f"{words} {name}", each
            if hasattr(each, "commands"):
                yield from _commands(each, f"{words} {name}")


def _first_line(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _table(command: Any, words: str) -> list[str]:
    """A row for every argument and option; the help of all commands is the same and stands in none."""
    context = command.context_class(command, info_name=words)
    rows = [each.get_help_record(context) for each in command.params if not getattr(each, "hidden", False)]
    told = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in (row for row in rows if row)]
    return ["| option | meaning |", "|---|---|", *told] if told else ["It has no options."]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("--write", action="store_true", help="put the commands into docs/cli.md")
    if words.parse_args().write:
        write_page()
    else:
        print(cli_page())  # noqa: T201

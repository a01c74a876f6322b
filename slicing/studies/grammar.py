"""The one line that a person writes a recipe in: ``sleb(share=0.5) | slice(dynamic, base=0)``.

Steps are joined by ``|``. A step has a name and, in brackets, settings; names may have hyphens, and that of a
step may begin with a digit. Values are numbers, names, ``true`` and ``false``, and tuples of numbers.
Python's own parser reads it, so that an error names its column. Knows nothing about what steps do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from analysis.errors import PlanError, SlicescopeError, unknown_name
from analysis.numbers import as_briefly, read_number
from slicing.steps import STEPS, Step
from slicing.studies.former import renamed

DENSE = "dense"
"""The line of a recipe without steps."""
LONGEST = 20_000
"""Characters of a line, at most."""
_HYPHEN = re.compile(r"(?<=[A-Za-z0-9])-(?=[A-Za-z])")
_DIGIT = re.compile(r"((?:^|\|)\s*)[0-9](?=\w*[A-Za-z])")
"""The digit that the name of a step begins with: at the beginning of the line, or behind a bar."""
_BARE = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*")
_TOKEN = re.compile(r"[\w.+-]+|\S")
_WORDS = {"true": True, "false": False}


def parse_line(text: str) -> tuple[Step, ...]:
    """Read the steps of a line; ``PlanError`` names the column, from 1, of what does not fit."""
    if text.strip() in ("", DENSE):
        return ()
    if len(text) > LONGEST:
        raise PlanError(f"A recipe has {len(text):,} characters, but {LONGEST:,} are the most: shorten it.")
    return _Reader(text).steps()


def write_line(steps: Sequence[Step]) -> str:
    """Write the line that ``parse_line`` reads back as these steps: what is as usual is left out."""
    return " | ".join(map(_written, steps)) or DENSE


def _written(step: Step) -> str:
    said = step.said()
    first = []
    for name in step.positional:
        if name not in said:
            break
        first.append(write_value(said.pop(name)))
    settings = [*first, *(f"{name}={write_value(value)}" for name, value in said.items())]
    return f"{step.name}({', '.join(settings)})" if settings else step.name


def write_value(value: Any) -> str:
    """Write the value of a setting as ``parse_line`` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return as_briefly(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(write_value, value))},)"
    return value if _BARE.fullmatch(value) and value not in _WORDS else repr(value)


class _Reader:
    """Reads one line, and knows where in it everything stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        # What is replaced is as long, so that columns stay right. A hyphen within a name would be a minus,
        # and a name that begins with a digit would be a number.
        self._line = re.sub(r"\s", " ", text)
        self._begins = len(text) - len(text.lstrip())
        self._plain = _DIGIT.sub(r"\1n", _HYPHEN.sub("_", self._line[self._begins :]))

    def steps(self) -> tuple[Step, ...]:
        """The steps between the bars, from left to right."""
        if "#" in self._line:
            raise self._wrong(self._line.index("#") + 1, "there are no comments in a recipe; leave it out")
        try:
            node = ast.parse(self._plain, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = self._begins + max(getattr(error, "offset", None) or 1, 1)
            raise self._wrong(
                column, "this is no recipe such as 'sleb(share=0.5) | slice(dynamic)'"
            ) from None
        found = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            found.append(node.right)
            node = node.left
        return tuple(map(self._step, (node, *reversed(found))))

    def _step(self, node: ast.expr) -> Step:
        name, call = (node.func, node) if isinstance(node, ast.Call) else (node, None)
        if not isinstance(name, ast.Name):
            raise self._wrong(node, "this is no step; write its name, as in 'sleb' or 'slice(dynamic)'")
        known = self._name(name)
        if known not in STEPS:
            now = renamed(known)
            why = f"'{known}' is called '{now}' now" if now else unknown_name("step", known, STEPS)
            raise self._wrong(name, why)
        kind = STEPS[known]
        said, places = self._settings(kind, call) if call else ({}, {})
        try:
            return kind.from_said(said)
        except SlicescopeError as error:
            raise self._wrong(_at_fault(kind, said, places, str(error)) or node, str(error)) from None

    def _name(self, node: ast.Name) -> str:
        """The name of a step as it is written, with its hyphens and the digit that it may begin with."""
        first = self._line[self._column(node) - 1]
        return _hyphened(first + node.id[1:] if first.isdecimal() else node.id)

    def _settings(self, kind: type[Step], call: ast.Call) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a step as they are written, and where each stands."""
        said: dict[str, Any] = {}
        places: dict[str, Any] = {}
        if len(call.args) > len(kind.positional):
            extra = call.args[len(kind.positional)]
            why = f"a setting of '{kind.name}' needs its name, as in 'share=0.5'"
            raise self._wrong(extra, why)
        for setting, value in zip(kind.positional, call.args, strict=False):
            said[setting], places[setting] = self._value(value), value
        for keyword in call.keywords:
            if not keyword.arg:
                raise self._wrong(
                    keyword, "this is no setting; write its name and its value, as in 'share=0.5'"
                )
            if keyword.arg in said:
                raise self._wrong(keyword, f"'{keyword.arg}' of '{kind.name}' is set twice; name it once")
            said[keyword.arg], places[keyword.arg] = self._value(keyword.value), keyword
        return said, places

    def _value(self, node: ast.expr) -> Any:
        sign, signed = 1, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
        said = node.value if isinstance(node, ast.Constant) else None
        if isinstance(said, int | float) and not isinstance(said, bool):
            begin, end = self._column(node) - 1, self._column(node, end=True) - 1
            if read_number(self._line[begin:end]) is None:  # Python reads 1_0 too
                raise self._wrong(node, "this is no finite number")
            return sign * said
        if node is signed and isinstance(node, ast.Constant) and isinstance(node.value, str):
            begin, end = self._column(node) - 1, self._column(node, end=True) - 1
            return ast.literal_eval(self._line[begin:end])  # with its hyphens
        if node is signed and isinstance(node, ast.Name):
            return _WORDS.get(node.id.lower(), _hyphened(node.id))
        if node is signed and isinstance(node, ast.Tuple):
            return tuple(map(self._value, node.elts))
        raise self._wrong(signed, "this is no value; write a number, a name, true or false")

    def _column(self, node: ast.expr | ast.keyword, end: bool = False) -> int:
        """The column where a node begins, or the one behind it, from 1: Python counts bytes."""
        offset = (node.end_col_offset if end else node.col_offset) or 0
        return self._begins + len(self._plain.encode()[:offset].decode(errors="ignore")) + 1

    def _wrong(self, where: ast.expr | ast.keyword | int, why: str) -> PlanError:
        column = where if isinstance(where, int) else self._column(where)
        here = _TOKEN.search(self._line, column - 1)
        at = f"at '{here[0][:40]}'" if here else "at the end"
        return PlanError(f"The recipe cannot be read in column {column}, {at}: {why.rstrip('.')}.")


def _at_fault(kind: type[Step], said: dict[str, Any], places: dict[str, Any], fault: str) -> Any:
    """Where the first setting stands, in the order of the line, with which the step has this fault."""
    some: dict[str, Any] = {}
    for name, value in said.items():
        some[name] = value
        try:
            kind.from_said(some)
        except SlicescopeError as error:
            if str(error) == fault:
                return places[name]
    return None


def _hyphened(name: str) -> str:
    return name.replace("_", "-")

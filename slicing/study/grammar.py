"""The one line that a person writes a recipe in: ``sleb(share=0.5) | slice(dynamic, base=0)``.

Steps are joined by ``|``. A step has a name and, in brackets, settings; names may have hyphens. Values are
numbers, names, ``true`` and ``false``, and tuples of numbers. Python's own parser reads it, so that an error
names its column. Knows nothing about what steps do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from analysis.errors import PlanError, SlicescopeError, unknown_name
from analysis.numbers import as_briefly
from slicing.steps import STEPS, Step

DENSE = "dense"
"""The line of a recipe without steps."""
LONGEST = 20_000
"""Characters of a line, at most."""
_HYPHEN = re.compile(r"(?<=[A-Za-z0-9])-(?=[A-Za-z])")
_BARE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_WORDS = {"true": True, "false": False, "none": "none"}


def parse_line(text: str) -> tuple[Step, ...]:
    """Read the steps of a line; ``PlanError`` names the column, from 1, of what does not fit."""
    line = text.strip()
    if line in ("", DENSE):
        return ()
    if len(line) > LONGEST:
        raise PlanError(f"A recipe has {len(line):,} characters, but {LONGEST:,} are the most: shorten it.")
    # A hyphen within a name would be a minus. What takes its place is as long, so that columns stay right.
    plain = _HYPHEN.sub("_", line)
    try:
        tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        column = getattr(error, "offset", None) or 1
        raise _wrong(line, column, "cannot be read here") from None
    return tuple(_step(line, node) for node in _parts(line, tree))


def write_line(steps: Sequence[Step]) -> str:
    """Write the line that ``parse_line`` reads back as these steps: what is as usual is left out."""
    return " | ".join(map(_written, steps)) or DENSE


def _written(step: Step) -> str:
    said = step.said()
    first = []
    for name in step.positional:
        if name not in said:
            break
        first.append(_value(said.pop(name)))
    settings = [*first, *(f"{name}={_value(value)}" for name, value in said.items())]
    return f"{step.name}({', '.join(settings)})" if settings else step.name


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return as_briefly(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))},)"
    return value if _BARE.fullmatch(value) else repr(value)


def _parts(line: str, node: ast.expr) -> list[ast.expr]:
    """The steps between the bars, from left to right."""
    found = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        found.append(node.right)
        node = node.left
    return [node, *reversed(found)]


def _step(line: str, node: ast.expr) -> Step:
    name, call = (node.func, node) if isinstance(node, ast.Call) else (node, None)
    if not isinstance(name, ast.Name):
        raise _wrong(
            line, _column(line, node), "is no step: write its name, as in 'sleb' or 'slice(dynamic)'"
        )
    known = _hyphened(name.id)
    if known not in STEPS:
        raise _wrong(line, _column(line, name), _lower(unknown_name("step", known, STEPS)))
    kind = STEPS[known]
    said: dict[str, Any] = {}
    if call:
        if len(call.args) > len(kind.positional):
            extra = call.args[len(kind.positional)]
            raise _wrong(
                line, _column(line, extra), f"needs a name, as in 'share=0.5', to be a setting of '{known}'"
            )
        for setting, value in zip(kind.positional, call.args, strict=False):
            said[setting] = _read(line, value)
        for keyword in call.keywords:
            setting = keyword.arg or ""
            if not setting or setting in said:
                raise _wrong(
                    line, _column(line, keyword.value), f"sets '{setting}' of '{known}' twice: name it once"
                )
            said[setting] = _read(line, keyword.value)
    try:
        return kind.from_said(said)
    except SlicescopeError as error:
        raise _wrong(line, _column(line, node), _lower(str(error))) from None


def _read(line: str, node: ast.expr) -> Any:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        value = float(node.value) if abs(node.value) < 2**63 else float("inf")
        if value in (float("inf"), float("-inf")) or value != value:
            raise _wrong(line, _column(line, node), "is no finite number")
        return sign * node.value
    if sign == 1 and isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if sign == 1 and isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), _hyphened(node.id))
    if sign == 1 and isinstance(node, ast.Tuple):
        return tuple(_read(line, each) for each in node.elts)
    raise _wrong(line, _column(line, node), "is no value: write a number, a name, true or false")


def _hyphened(name: str) -> str:
    return name.replace("_", "-")


def _column(line: str, node: ast.expr) -> int:
    """The column of a node, from 1: Python counts bytes."""
    return len(line.encode()[: node.col_offset].decode(errors="ignore")) + 1


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:].rstrip(".")


def _wrong(line: str, column: int, why: str) -> PlanError:
    here = line[column - 1 :].split()[0][:40] if line[column - 1 :].split() else "the end"
    return PlanError(f"The recipe cannot be read: in column {column}, '{here}' {why}.")

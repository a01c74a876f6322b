"""Reading what the command line is given: groups of flags, and lists in one flag.

Knows nothing about what commands do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from analysis.errors import PlanError
from analysis.numbers import read_number, read_whole

Number = TypeVar("Number", int, float)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters may be groups: every field of a group becomes an option of its own."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            changed = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(changed)
            continue
        groups[name] = hints[name]
        within = get_type_hints(hints[name], include_extras=True)
        for field in fields(hints[name]):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=within[field.name],
                )
            )

    @functools.wraps(command)
    def run(**flags: Any) -> None:
        made = {
            name: group(**{field.name: flags.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **flags)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def numbers(what: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them (``PlanError`` for anything else)."""
    return _listed(f"{what} must be numbers with commas between them, such as '.1,.2,.3'", text, read_number)


def whole_numbers(what: str, text: str) -> tuple[int, ...]:
    """The same for whole numbers."""
    return _listed(
        f"{what} must be whole numbers with commas between them, such as '0,1,2'", text, read_whole
    )


def _listed(rule: str, text: str, read: Callable[[str], Number | None]) -> tuple[Number, ...]:
    found = [read(each) for each in text.split(",") if each.strip()]
    if None in found:
        raise PlanError(f"The {rule}, but are '{text}'.")
    return tuple(each for each in found if each is not None)

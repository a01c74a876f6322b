"""The base of every noun here: a frozen value that goes to JSON and back.

Knows nothing about models, texts or tensors.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from analysis.errors import SlicescopeError, StorageError, one_line

Progress = Callable[[str, int, int], None]
"""``progress(phase, done, total)``: called after every batch or block; may raise ``Cancelled``."""


def no_progress(phase: str, done: int, total: int) -> None:
    """The listener that does not listen."""


class Value(BaseModel):
    """A frozen value: equal by content, JSON in and out, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: ClassVar[int] = 1
    """Counts what the fields have meant. It grows when a default, or what is done with a field, changes."""
    always_said: ClassVar[tuple[str, ...]] = ()
    """Fields that are part of the key at their defaults too: those whose defaults are lists that grow."""

    def to_json(self) -> str:
        """Indented JSON, fields in their order of definition."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Self:
        """Read ``text``; a ``StorageError`` names ``origin`` and the first thing that does not fit."""
        return cls._read(lambda: cls.model_validate_json(text), origin)

    @classmethod
    def from_plain(cls, data: Any, origin: str) -> Self:
        """Read what a JSON reader made of a text, with the same errors as ``from_json``."""
        return cls._read(lambda: cls.model_validate(data), origin)

    @classmethod
    def _read(cls, read: Callable[[], Self], origin: str) -> Self:
        try:
            return read()
        except ValidationError as error:
            problem = first_fault(error, "the whole file")
        except SlicescopeError as error:  # what the value itself, or one inside it, checks
            problem = one_line(error)
        raise cls.unreadable(problem, origin)

    @classmethod
    def unreadable(cls, problem: str, origin: str) -> StorageError:
        """Tell in one sentence what of ``origin`` does not fit, and what to do."""
        return StorageError(f"{origin} is not a readable {cls.__name__} ({problem}); {cls._remedy()}.")

    @classmethod
    def _remedy(cls) -> str:
        return "restore it from a copy"

    def identity(self) -> dict[str, Any]:
        """Give the part of the key that is no field: the version, where it is not the first."""
        return {} if self.version == 1 else {"version": self.version}

    @property
    def key(self) -> str:
        """Twelve hex digits of the SHA-256 of what the value says: the same meaning, the same key.

        Fields at their defaults are left out, so that a new field with a default changes no key. A default
        whose meaning changes needs a new ``version``.
        """
        return key_of(_said(self))


@cache
def field_said(kind: type, name: str) -> str | None:
    """Give what is written under a field in the source of its class; ``None`` where nothing is.

    Read when it is asked for: parsing every class as it is made takes longer than reading a stored run.
    """
    for each in kind.__mro__:
        if name in vars(each).get("__annotations__", {}):
            (made,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            said = getattr(made, "body", [])
            for field, below in pairwise(said):
                if getattr(getattr(field, "target", None), "id", None) == name:
                    text = getattr(getattr(below, "value", None), "value", None)
                    return inspect.cleandoc(text) if isinstance(text, str) else None
            return None
    return None


def first_fault(error: ValidationError, whole: str) -> str:
    """The first thing that does not fit, with where it is; ``whole`` is what to call all of it."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def without(data: Any, *names: str) -> Any:
    """Drop fields that earlier versions of slicescope wrote, from data that is about to be read."""
    if not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if name not in names}


def key_of(plain: Any) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of plain data."""
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _said(value: Any) -> Any:
    """Give constants and the fields that differ from their defaults, as plain data."""
    if isinstance(value, Value):
        said = value.identity()
        for name, field in type(value).model_fields.items():
            own = _said(getattr(value, name))
            always = _is_constant(field) or field.is_required() or name in value.always_said
            if always or own != _default(field) or _is_renewed(getattr(value, name)):
                said[name] = own
        return said
    if isinstance(value, Mapping):
        return {str(name): _said(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_said(each) for each in value]
    return to_jsonable_python(value)


def _is_renewed(value: Any) -> bool:
    """Whether a value, or one inside it, has a version above 1, which its defaults do not tell."""
    if isinstance(value, Value):
        return value.version != 1 or any(
            _is_renewed(getattr(value, name)) for name in type(value).model_fields
        )
    if isinstance(value, Mapping):
        return any(map(_is_renewed, value.values()))
    return isinstance(value, tuple | list) and any(map(_is_renewed, value))


def _is_constant(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _default(field: FieldInfo) -> Any:
    return _said(field.get_default(call_default_factory=True))

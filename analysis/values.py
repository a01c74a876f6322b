"""What every noun here has in common: a frozen value that goes to JSON and back.

Knows nothing about models, texts or tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from analysis.errors import SlicescopeError, StorageError, one_line

Progress = Callable[[str, int, int], None]
"""``progress(phase, done, total)``: called after every batch or block; may raise ``Cancelled``."""


def no_progress(phase: str, done: int, total: int) -> None:
    """The listener that does not listen."""


class Value(BaseModel):
    """A frozen value: equal by content, JSON in and out, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Indented JSON, fields in their order of definition."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Self:
        """Read ``text``; a ``StorageError`` names ``origin`` and the first thing that does not fit."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            problem = f"{where}: {first['msg']}"
        except SlicescopeError as error:  # what the value itself, or one inside it, checks
            problem = one_line(error)
        raise StorageError(
            f"{origin} is not a readable {cls.__name__} ({problem}); restore it from a copy or delete it."
        )

    @property
    def key(self) -> str:
        """Twelve hex digits of the SHA-256 of the canonical JSON: the same content, the same key."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

"""A list of things by their names, in which each registers itself and an unknown name is one sentence."""

from __future__ import annotations

from typing import Generic, TypeVar

from analysis.errors import PlanError, unknown_name

Entry = TypeVar("Entry")


class Registry(dict[str, Entry], Generic[Entry]):
    """Entries by name, in the order in which they were put there."""

    def __init__(self, kind: str, *others: str) -> None:
        """``kind``: what an entry is called in errors; ``others``: names that are none, and may be said."""
        super().__init__()
        self.kind, self.others = kind, others

    def put(self, name: str, entry: Entry) -> None:
        """Add an entry (``ValueError`` where there is one of this name)."""
        if name in self:
            raise ValueError(f"The {self.kind} '{name}' is registered twice.")
        self[name] = entry

    def find(self, name: str) -> Entry:
        """Give the entry of this name, or raise a ``PlanError`` that suggests the nearest."""
        if name not in self:
            raise PlanError(unknown_name(self.kind, name, (*self.others, *self)))
        return self[name]

"""Models in the forms of other tools. One file here is one form; see ``base.Export``."""

from __future__ import annotations

from analysis.errors import PlanError, unknown_name
from slicing.export.base import Export
from slicing.export.deci import Deci
from slicing.export.gguf import Gguf

EXPORTS: dict[str, Export] = {each.name: each for each in (Deci(), Gguf())}


def find_export(name: str) -> Export:
    """Find the form of this name, or raise a ``PlanError`` that suggests the nearest."""
    if name not in EXPORTS:
        raise PlanError(unknown_name("form", name, EXPORTS))
    return EXPORTS[name]

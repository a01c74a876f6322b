"""Models in the forms of other tools. One file here is one form; see ``base.Export``."""

from __future__ import annotations

from analysis.errors import PlanError, unknown_name
from slicing.export.base import Dense, Export
from slicing.export.deci import Deci
from slicing.export.gguf import Gguf
from slicing.export.hf import Hf
from slicing.export.mergekit import Mergekit

__all__ = ["EXPORTS", "Dense", "Export", "find_export"]

EXPORTS: dict[str, Export] = {each.name: each for each in (Hf(), Deci(), Gguf(), Mergekit())}


def find_export(name: str) -> Export:
    """Find the form of this name, or raise a ``PlanError`` that suggests the nearest."""
    if name not in EXPORTS:
        raise PlanError(unknown_name("form", name, EXPORTS))
    return EXPORTS[name]

"""Check that the names of our packages lead to our packages, and not to a file or folder of the user's.

Imports nothing of ours, so that it can be asked before anything else of ours is imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
"""The folder in which all of our packages lie."""


def check_names(*names: str, first: str | None = None) -> None:
    """Raise ``ImportError`` where Python finds something else under one of our ``names``; imports nothing.

    ``first`` is a folder that is searched before ``sys.path``.
    """
    path = sys.path if first is None else [first, *sys.path]
    for name in names:
        spec = PathFinder.find_spec(name, path) or find_spec(name)  # the latter for an editable installation
        # A folder without __init__.py has no file of its own.
        found = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        if found and Path(found).resolve() != HOME / name / "__init__.py":
            raise ImportError(
                f"'{found}' hides the package '{name}' of slicescope: rename it, or start Python in another "
                "folder."
            )

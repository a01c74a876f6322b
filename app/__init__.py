"""app: shows it. Command line and web are two faces of the same recipes."""

import runpy
from pathlib import Path

# Read from its file, since 'slicing' is one of the names that may lead elsewhere.
_names = runpy.run_path(str(Path(__file__).parents[1] / "slicing" / "names.py"))
try:
    _names["check_names"]("analysis", "slicing")
except ImportError as error:
    raise SystemExit(f"slicescope: {error}") from None

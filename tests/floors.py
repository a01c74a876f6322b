"""The lowest versions that pyproject.toml allows, as constraints for pip: ``python tests/floors.py``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = ("app", "demo")


def floors() -> list[str]:
    """Give each package that the product and these extras need, pinned to its lowest version."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    needed = project["dependencies"] + [
        each for extra in EXTRAS for each in project["optional-dependencies"][extra]
    ]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?[>=]=([\d.]+)", each) for each in needed]
    return sorted(f"{each[1]}=={each[2]}" for each in found if each)


if __name__ == "__main__":
    sys.stdout.write("\n".join(floors()) + "\n")

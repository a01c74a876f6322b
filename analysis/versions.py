"""Which version of a package is here."""

from __future__ import annotations

import importlib.metadata

FROM_SOURCE = "source"
"""In the place of a number, for a package that runs from its source tree and is not installed."""


def version_of(package: str) -> str:
    """Tell the version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return FROM_SOURCE

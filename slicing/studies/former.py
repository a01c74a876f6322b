"""Former names of methods and repairs, which stored runs and people's memories still have."""

from __future__ import annotations

METHODS = {
    "angular": "gromov",
    "below-last": "gromov-simple",
    "greedy": "sleb",
    "random": "random-blocks",
    "sliding": "sliding-merge",
    "streamline": "llm-streamline",
    "top": "last-blocks",
}
"""Methods of removal, where they have other names now."""
REPAIRS = {"block": "train-block", "matrix": "linear", "writer": "last-writer"}
"""Repairs, where that has another name now."""


def renamed(name: str) -> str | None:
    """Find the name of today of a method or a repair; ``None`` where it is no former name."""
    return {**METHODS, **REPAIRS}.get(name)

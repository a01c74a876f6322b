"""The lines that benchmarks write, as one Markdown table."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import NamedTuple

import psutil
import torch


class Row(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    target: str
    met: bool | None
    """``None`` for what is shown without a target."""


class Table:
    """What was measured, in the order it was measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.budgets: list[str] = []
        self.disturbances: list[float] = []
        """Cores that other processes kept busy during the repetitions that count."""
        self.threads = 0
        self.load_before = _load()

    def markdown(self, command: str) -> str:
        """The table with what is needed to read and to repeat it."""
        answer = {True: "yes", False: "**no**", None: ""}
        lines = ["| what | ratio or time | target | met |", "|---|---|---|---|"]
        lines += [f"| {row.what} | {row.value} | {row.target} | {answer[row.met]} |" for row in self.rows]
        return "\n".join(
            [
                *lines,
                "",
                f"Repeat with `{command}`. Ratios are of the best of interleaved repetitions in one process.",
                *self.budgets,
                f"{_processor()}, {self.threads} threads, torch {torch.__version__}; "
                f"load average {self.load_before} before and {_load()} after.",
                f"During the repetitions that count, other processes kept {self._disturbance()} busy.",
            ]
        )

    def _disturbance(self) -> str:
        if not self.disturbances:
            return "an unknown number of cores"
        return (
            f"{statistics.median(self.disturbances):.2f} cores (median; {max(self.disturbances):.2f} at most)"
        )


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {psutil.cpu_count(logical=False)} cores"

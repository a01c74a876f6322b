"""How many CPU seconds ``reuse_memory`` saves: a slicing and an evaluation, each in a process of its own.

Run with ``PYTHONPATH=.:tests python tests/benchmarks/memory_reuse.py`` (``--windows 2 --length 128`` for a
quick look). The processes take turns, so that a busy moment of the machine does not decide. On a system
without glibc both ways are the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CUT = 0.25
ROUNDS = 2


def main() -> None:
    """Print a line for each turn, and the ratio of the sums."""
    parser = argparse.ArgumentParser(description="Weigh reuse_memory.")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--child", choices=("plain", "reuse"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        say(json.dumps(measure(asked.child == "reuse", asked.windows, asked.length)))
        return
    sums: dict[str, dict[str, float]] = {"plain": {}, "reuse": {}}
    for turn in range(ROUNDS):
        for way, total in sums.items():
            found = in_process(way, asked.windows, asked.length)
            say(f"{turn} {way}: " + ", ".join(f"{name} {value:.1f} s" for name, value in found.items()))
            for name, value in found.items():
                total[name] = total.get(name, 0.0) + value
    for name, value in sums["plain"].items():
        say(f"{name}: with reuse_memory {sums['reuse'][name] / value:.3f} of the CPU seconds")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


def in_process(way: str, windows: int, length: int) -> dict[str, float]:
    """CPU seconds by what was done, in a new process."""
    size = ("--windows", str(windows), "--length", str(length))
    told = subprocess.run(
        [sys.executable, __file__, "--child", way, *size], check=True, capture_output=True, text=True
    )
    return json.loads(told.stdout.splitlines()[-1])


def measure(reuse: bool, windows: int, length: int) -> dict[str, float]:
    """CPU seconds of this process for the first slicing and the first evaluation."""
    from analysis.device import reuse_memory
    from analysis.evaluate import perplexity
    from analysis.read_shape import read_shape
    from analysis.sources.model import ModelSource
    from analysis.sources.opening import open_dense
    from analysis.sources.text import TextSource
    from analysis.sources.windows import token_windows
    from slicing.schedule import SlicingSchedule
    from slicing.slicer import slice_model

    if reuse:
        reuse_memory()
    opened = open_dense(ModelSource(kind="demo"))
    text = token_windows(TextSource(kind="demo", split="calibration"), opened.tokenizer, length, windows, 0)
    shape = read_shape(opened.model)
    schedule = SlicingSchedule.from_fractions([CUT] * shape.block_count, shape.hidden_size, 8, "shared")
    sliced, slicing = timed(lambda: slice_model(opened.model, schedule, text).model)
    _, evaluating = timed(lambda: perplexity(sliced, text))
    return {"slicing": slicing, "evaluation": evaluating}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the CPU seconds that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


if __name__ == "__main__":
    main()

"""What every kind of step takes in memory, against what is told before it begins.

Run with ``PYTHONPATH=.:tests python -m benchmarks.memory_formula`` (Linux, some minutes;
``--only fasp --shape wide`` for a quick look). Every line runs in a process of its own, on a random Llama
whose weights are there before, a second time: the buffers that libraries keep, some 20 MB, are there then.
The kernel counts the peak of the resident memory, so that no moment is missed, and what is freed goes back at
once. The formula is the largest need that was asked for room on the way.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024), "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
"""glibc keeps what is freed for later, unless a block of memory is larger than this."""


class Shape(NamedTuple):
    """A random Llama and its calibration text."""

    width: int
    inner: int
    blocks: int
    heads: int
    groups: int
    vocabulary: int
    windows: int
    length: int


SHAPES = {
    "usual": Shape(256, 704, 3, 4, 2, 2048, windows=16, length=256),
    "narrow": Shape(384, 384, 3, 6, 6, 1024, windows=12, length=512),
    "wide": Shape(192, 1536, 3, 3, 1, 512, windows=8, length=256),
}
"""Three ratios of hidden and inner size, and of tokens to them."""
LINES = (
    *("profile", "evaluate", "slice", "slice(repair=writers)", "slice(one_shot=true)"),
    *("shortgpt", "sleb", "laco", "gromov", "leave-one-out", "sliding-merge"),
    *(f"llm-streamline(repair={each})" for each in ("linear", "projections", "train-block")),
    *(f"llm-streamline(repair={each})" for each in ("last-writer", "writers")),
    *("fasp", "fasp(restore=false)", "fasp(repair=writers)", "fasp(repair=projections)"),
    *("modegpt", "dotresize", "llm-pruner", "llm-pruner(form=element-2)", "prunenet(episodes=2)"),
    *("mixed", "mixed(repair=projections)", "sublayers", "2ssp"),
    *("shortgpt | finetune(tokens=1000)", "shortgpt | finetune(tokens=1000, train=all)"),
    *("shortgpt | finetune(tokens=1000, checkpointing=on)", "shortgpt | distil(tokens=1000)"),
    *("shortgpt | distil(tokens=1000, checkpointing=on)", "shortgpt | distil(tokens=1000, train=lora)"),
    *(
        "slice | distil(tokens=1000)",
        "fasp | reconstruct(tokens=1000)",
        "shortgpt | reconstruct(tokens=1000)",
    ),
)


def main() -> None:
    """Print a line for each kind of step and shape."""
    parser = argparse.ArgumentParser(description="Hold the memory formula against what is taken.")
    parser.add_argument("--only", default="", help="lines that contain this")
    parser.add_argument("--line", action="append", help="these lines alone")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="by default all of them")
    parser.add_argument("--parts", action="store_true", help="with the parts of the formula")
    asked = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in GIVE_BACK.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | GIVE_BACK)  # read when a process begins
    say("| step | shape | formula, MB | measured, MB | ratio |\n|---|---|---|---|---|")
    for line in asked.line or [each for each in LINES if asked.only in each]:
        for name in asked.shape or SHAPES:
            found = in_process(line, SHAPES[name])
            formula, taken = found["formula"] / 1e6, found["taken"] / 1e6
            parts = f" {found['need']}" if asked.parts else ""
            say(f"| {line} | {name} | {formula:.1f} | {taken:.1f} | {formula / taken:.2f} |{parts}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


def in_process(line: str, shape: Shape) -> dict[str, Any]:
    """What is measured in a process of its own: a copy of this one, which has imported everything."""
    import slicing.studies.run

    assert slicing.studies.run
    reading, writing = os.pipe()
    if not (copy := os.fork()):
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            json.dump(measured(line, shape), answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        told = answer.read()
    if os.waitpid(copy, 0)[1]:
        raise SystemExit(f"{line} ended with an error.")
    return json.loads(told)


def measured(line: str, shape: Shape) -> dict[str, Any]:
    """The largest need that was asked for and the peak of what was taken, in bytes, beside the model."""
    import torch
    from conftest import tiny_model  # pyright: ignore[reportAttributeAccessIssue]

    from analysis import needs

    generator = torch.Generator().manual_seed(0)

    def drawn(count: int, length: int) -> torch.Tensor:
        return torch.randint(3, 300, (count, length), generator=generator)

    model = tiny_model(
        "llama",
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.width // shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=1024,
    )
    few = max(4, shape.windows // 4)
    work_of(line, model, drawn(few, shape.length), drawn(10, shape.length))()  # libraries take their buffers
    work = work_of(line, model, drawn(shape.windows, shape.length), drawn(16, shape.length))
    asked: list[Any] = []
    room = needs.fits

    def noted(model: Any, need: Any) -> bool:
        asked.append(need)
        return room(model, need)

    needs.fits = noted
    gc.collect()
    with peak_above() as above:
        result = work()
    del result
    there = sum(each.nbytes for each in {each.data_ptr(): each for each in model.parameters()}.values())
    most = max(asked, key=lambda each: each.total)
    return {"formula": most.total - there, "taken": above[0], "need": most.model_dump()}


def work_of(line: str, model: Any, windows: Any, healing: Any) -> Callable[[], Any]:
    """What a line does with a model."""
    from analysis.evaluate import perplexity
    from analysis.profile import profile_blocks
    from slicing.budget import Budget
    from slicing.studies.recipe import Recipe
    from slicing.studies.run import check_recipe, make_smaller
    from slicing.view import ModelView

    if line == "evaluate":
        return lambda: perplexity(model, windows)
    if line == "profile":
        return lambda: profile_blocks(model, windows, model_label="", text_label="")
    budget, recipe = Budget.parse("parameters=0.25"), Recipe.parse(line)
    view = ModelView(model, windows, healing_windows=lambda: healing)

    def made() -> Any:
        check_recipe(recipe, budget, view)
        return make_smaller(recipe, budget, view)

    return made


@contextmanager
def peak_above() -> Any:
    """Yield a list that gets how many bytes the peak inside the ``with`` is above what was there before."""
    before, found = resident("VmRSS"), [0]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    yield found
    found[0] = resident("VmHWM") - before


def resident(name: str) -> int:
    """A size of this process in bytes, by its name in the kernel's table."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith(name + ":"))


if __name__ == "__main__":
    main()

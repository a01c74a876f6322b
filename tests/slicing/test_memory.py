"""The memory formula against what is really taken, and slicing under an enforced limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_model

from analysis.errors import OutOfMemoryError
from analysis.needs import MemoryNeed
from analysis.read_shape import read_shape
from analysis.shape import ModelShape, SublayerShape
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.memory import Holds, inner_need, slicing_need
from slicing.repairs import find_repair
from slicing.schedule import SlicingSchedule
from slicing.steps import STEPS, find_step
from slicing.studies.recipe import Recipe
from slicing.studies.run import check_recipe
from slicing.view import ModelView

# In processes of their own, whose peaks are their own: copies of one that has imported everything.
COPIES = """
def each_in_a_copy(measured):
    for given in sys.argv[1:]:
        if not (copy := os.fork()):
            print(json.dumps(measured(given)), flush=True)
            os._exit(0)
        if ended := os.waitpid(copy, 0)[1]:
            sys.exit(f"{given}: {ended}")
"""
# D = 512 with long calibration, so that every part shows.
SCRIPT = (
    """
import json, os, resource, sys
sys.path[:0] = ["tests", "."]
import psutil, torch
from conftest import tiny_model
from analysis.read_shape import read_shape
from analysis.device import PeakMemory
from analysis.errors import SlicescopeError
from slicing.memory import slicing_need
from slicing.schedule import SlicingSchedule
from slicing.guard import refuse_unless_invariant
from slicing.slicer import slice_model

model = tiny_model("llama", hidden_size=512, intermediate_size=1024, num_hidden_layers=3,
                   max_position_embeddings=2048, num_attention_heads=8, head_dim=64)
windows = torch.randint(3, 300, (32, 512), generator=torch.Generator().manual_seed(0))
shape = read_shape(model)
schedule = SlicingSchedule(hidden_size=512, widths=(384,) * 3 + (512,), embedding="shared")
need = slicing_need(shape, schedule, windows.numel(), 2048, 4)

def measured(given):
    limit, host = map(float, given.split())
    small = torch.randint(3, 300, (4, 512), generator=torch.Generator().manual_seed(0))
    slice_model(model, schedule, small)  # libraries take their buffers
    before = psutil.Process().memory_info()
    if limit:
        extra = int(limit * (need.least - need.dense + host))
        resource.setrlimit(resource.RLIMIT_DATA, (before.data + extra, before.data + extra))
    try:
        with PeakMemory(model.device) as peak:
            sliced = slice_model(model, schedule, windows, budget=(0, int(host)))
        return {"taken": peak.bytes - before.rss, "need": need.model_dump(), "logits": float(
            sliced.model(windows[:1]).logits.double().abs().sum())}
    except SlicescopeError as error:
        return {"error": str(error)}
"""
    + COPIES
    + "each_in_a_copy(measured)"
)

LIMITED = (
    """
import json, os, resource, sys
sys.path[:0] = ["tests", "."]
import psutil, torch
from conftest import tiny_model
from analysis import needs
from analysis.errors import OutOfMemoryError
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.run import check_recipe, make_smaller
from slicing.view import ModelView

model = tiny_model("llama", hidden_size=320, intermediate_size=1280, num_hidden_layers=2,
                   max_position_embeddings=2048, num_attention_heads=5, num_key_value_heads=5, head_dim=64)
budget, fits = Budget.parse("parameters=0.25"), needs.fits
generator = torch.Generator().manual_seed(0)

def drawn(count):
    return torch.randint(3, 300, (count, 256), generator=generator)

def measured(line):
    recipe, asked = Recipe.parse(line), []

    def noted(model, need):
        asked.append(need)
        return fits(model, need)

    windows, healing = drawn(12), drawn(10)

    def made():
        view = ModelView(model, windows, healing_windows=lambda: healing)
        check_recipe(recipe, budget, view)
        return make_smaller(recipe, budget, view)

    needs.fits = noted
    made()  # libraries take their buffers
    most = max(need.total for need in asked)
    room = most - sum(each.nbytes for each in set(model.parameters()))
    before = psutil.Process().memory_info()
    limit = before.data + room + SLACK
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    open("/proc/self/clear_refs", "w").write("5")  # the kernel's peak begins anew, and misses no moment
    made()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    taken = int(status["VmHWM"].split()[0]) * 1024 - before.rss
    needs.memory_of = lambda device: (room // 2, most)
    try:
        made()
        refused = ""
    except OutOfMemoryError as error:
        refused = str(error)
    return {"taken": taken, "room": room, "refused": refused}
"""
    + COPIES
    + "each_in_a_copy(measured)"
)


def carried_out(script: str, *given: str) -> list[dict]:
    words = [sys.executable, "-c", script, *given]
    # glibc keeps what is freed for later, which made the peak differ by half from run to run; large blocks
    # of memory now go back at once, so that the peak is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return [json.loads(line) for line in answer.stdout.splitlines()[-len(given) :]]


LINUX = sys.platform == "linux"
LIMITS = {"free": "0 1e9", **({"spilled": "1.1 0", "refused": "0.2 0"} if LINUX else {})}
"""How often the bytes that are needed at least there may be, and the bytes of the host for activations."""


@pytest.fixture(scope="module")
def sliced() -> dict[str, dict]:
    return dict(zip(LIMITS, carried_out(SCRIPT, *LIMITS.values()), strict=True))


def test_formula_is_what_is_taken(sliced):
    need = sliced["free"]["need"]
    predicted = need["sliced"] + need["working"] + need["activations"]
    assert predicted / 1.5 < sliced["free"]["taken"] < predicted


KINDS = (
    *(
        "slice(constant)",
        "shortgpt",
        "laco",
        "llm-streamline(repair=projections)",
        "llm-streamline(repair=writers)",
        "fasp",
        "dotresize",
        "llm-pruner",
    ),
    *("shortgpt | distil(tokens=300)", "shortgpt | reconstruct(tokens=256, passes=1)"),
)
"""One step of each kind; ``benchmarks.memory_formula`` has all of them, on three shapes."""
SLACK = 32_000_000
"""Bytes beside: a thread that watches has a stack, and the allocator keeps small blocks of memory."""


@pytest.mark.skipif(not LINUX, reason="only Linux enforces RLIMIT_DATA")
def test_every_kind_of_step_keeps_to_its_formula_under_an_enforced_limit_and_is_refused_below():
    found = carried_out(f"SLACK = {SLACK}\n{LIMITED}", *KINDS)  # none ran out within the limit
    for line, each in zip(KINDS, found, strict=True):
        assert each["taken"] < each["room"] < 1.5 * each["taken"] + SLACK / 8, (line, each)
        assert "does not fit on cpu: it takes about" in each["refused"], line


@pytest.mark.skipif(not LINUX, reason="only Linux enforces RLIMIT_DATA")
def test_slicing_keeps_to_its_budget_under_an_enforced_limit(sliced):
    assert sliced["spilled"]["logits"] == sliced["free"]["logits"]
    assert "Memory ran out while slicing" in sliced["refused"]["error"]


def test_eight_billion_parameters_fit_a_24_gb_gpu_with_32_gb_of_host_memory():
    # Llama-3-8B: D = 4,096, 32 query heads and 8 key-value heads of 128, inner width 14,336, untied.
    attention = SublayerShape(kind="attention", reader_rows=6144, writer_columns=4096)
    mlp = SublayerShape(kind="mlp", reader_rows=28672, writer_columns=14336)
    shape = ModelShape(
        architecture="llama",
        hidden_size=4096,
        vocab_size=128256,
        tied=False,
        blocks=((attention, mlp),) * 32,
    )
    assert shape.parameters == 8_030_261_248
    schedule = SlicingSchedule(hidden_size=4096, widths=(3072,) * 32 + (4096,), embedding="untied")
    need = slicing_need(shape, schedule, 128 * 2048, batch=16384, itemsize=2)
    assert need.dense + need.sliced < 32e9  # on the host, where blocks rest
    assert need.working < 24e9 * 2 / 3  # on the GPU, which lends a third to activations
    assert need.activations < 5e9  # on disk, where there is no room for them


def test_what_cuts_inside_blocks_is_refused_before_it_begins_with_what_helps(monkeypatch):
    """With so much memory that the step fits without its repair, and not with it."""
    model = tiny_model("llama")
    view = ModelView(model, torch.randint(3, 300, (4, 24)))
    recipe, budget = Recipe.parse("fasp(repair=projections)"), Budget.parse("parameters=0.1")
    (step,) = recipe.steps
    plain = type(step)(restore=True)  # type: ignore[call-arg]
    whole, less = (each.memory_need(view.shape, budget, 96, 96, 4) for each in (step, plain))
    assert whole is not None and less is not None
    assert whole.least > less.least > less.dense
    free = (whole.least + less.least) // 2 - whole.dense
    monkeypatch.setattr("analysis.needs.memory_of", lambda _: (free, free + whole.dense))
    with pytest.raises(OutOfMemoryError) as told:
        check_recipe(recipe, budget, view)
    said = str(told.value)
    assert said.startswith("Cutting inside the blocks does not fit on cpu: it takes about")
    assert "To go on, leave out the repair, or restore nothing" in said
    assert said.count(". ") == 1  # what it is, and what to do
    check_recipe(Recipe.parse("fasp"), budget, view)


@pytest.mark.parametrize("repair", ["last-writer", "writers"])
def test_writers_that_are_fitted_after_a_removal_take_what_those_of_slicing_do(repair):
    """They are fitted in a model that is sliced at full width, which is there beside the dense one."""
    model, layout = tiny_model("llama"), Layout.without(3, (1,))
    shape = read_shape(model)
    left = shape.model_copy(update={"blocks": (shape.blocks[0], shape.blocks[2])})
    fits = slicing_need(left, SlicingSchedule.uncut(left, 2), 1000, 500, 4, repair=True)
    bare = MemoryNeed(dense=shape.parameters * 4, working=0)
    need = find_repair(repair).need(bare, model, layout, 1000, 500)
    assert need.total - need.dense == fits.total - fits.dense
    assert need.sliced == fits.sliced // 2


@pytest.mark.parametrize("name", [name for name, kind in STEPS.items() if kind.axis == "inner"])
def test_every_method_inside_blocks_tells_what_it_takes(name):
    shape = read_shape(tiny_model("llama"))
    budget = Budget.parse("parameters=0.3")
    usual, repaired = (
        find_step(name)(**some).memory_need(shape, budget, 1000, 500, 4)
        for some in ({}, {"repair": "writers"})
    )
    assert usual is not None and repaired is not None
    assert shape.parameters * 4 == usual.dense < usual.total <= repaired.total
    half = find_step(name)().memory_need(shape, budget, 1000, 500, 2)
    assert half is not None and half.dense * 2 == usual.dense and half.total < usual.total
    assert inner_need(shape, shape.parameters, 9, 9, 9, 4, Holds(curvature=True)).measured == (
        6 * 32 * 32 * 4  # one for each of six sub-layers
    )

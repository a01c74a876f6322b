"""The whole job on simulated CUDA, on two of them and on MPS; what the simulation refuses and counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from accelerator import Accelerator, simulated
from conftest import byte_tokenizer, tiny_model

import slicing
from analysis.anatomy import anatomy_of, block_path, blocks
from analysis.bases import Bases, BasesCollector, find_bases
from analysis.details import DetailsCollector
from analysis.device import batch_tokens, free_memory, memory_of, pick_dtype
from analysis.errors import OutOfMemoryError
from analysis.evaluate import continue_text, perplexity
from analysis.lens import logit_lens
from analysis.needs import MemoryNeed, refuse_unless_it_fits
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.assembly import blank, fill_ends
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.probes import PROBES, Probing
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.steps.base import Made
from slicing.store import open_model
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest
from slicing.studies.run import perform
from slicing.studies.store import MODEL_FOLDER, folder_of
from slicing.studies.study import Study
from slicing.view import ModelView

KINDS = [
    ("llama", torch.float32),
    ("llama", torch.bfloat16),
    ("falcon", torch.float32),
    ("gpt2", torch.float32),
]
PLACES = ["cuda", "two", "host", "mps"]
# Two cards refuse whatever one refuses, so that one kind is enough for one card.
CASES = [(*kind, place) for kind in KINDS for place in PLACES if place != "cuda" or kind == KINDS[0]]


def placed(accelerator: Accelerator, model: Any, place: str) -> Any:
    """The model on its device, or its blocks after the first on another one, or resting on the host."""
    if place in ("cuda", "mps"):
        return accelerator.put(model, place)
    anatomy, path = anatomy_of(model.config), block_path(model)
    parts = [f"{anatomy.decoder}.{name}" for name, _ in model.get_submodule(anatomy.decoder).named_children()]
    device_map = {name: "cuda:0" for name in (*parts, anatomy.head) if name != path}
    other = "cuda:1" if place == "two" else "cpu"
    device_map |= {f"{path}.{block}": other if block else "cuda:0" for block in range(len(blocks(model)))}
    return dispatch_model(accelerator.put(model, "cuda:0"), device_map, force_hooks=True)


def schedule(model: Any, span: int = 0) -> SlicingSchedule:
    form: Any = "shared" if read_shape(model).tied else "untied"
    return SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding=form, span=span)


def profiled(model: Any, windows: torch.Tensor) -> float:
    details = DetailsCollector(model, windows)
    profile = profile_blocks(model, windows, model_label="", text_label="", details=details)
    assert np.isfinite(details.details().cka).all()
    return float(np.sum(profile.values("block-influence")))


def previewed(model: Any, windows: torch.Tensor, folder: Path, span: int = 0) -> float:
    find_bases(model, windows).save(folder / "bases.safetensors")
    bases = Bases.load(folder / "bases.safetensors", model.device)
    return perplexity(recut(model, schedule(model, span), bases).model, windows).perplexity


def sliced(model: Any, windows: torch.Tensor, **options: Any) -> float:
    made = slice_model(model, schedule(model, options.pop("span", 0)), windows, **options)
    return perplexity(made.model, windows).perplexity


def removed(model: Any, windows: torch.Tensor, repair: str = "none") -> float:
    layout = Layout.without(3, (1,))
    return perplexity(reduce_model(model, layout, windows, repair).model, windows).perplexity


def probed(model: Any, windows: torch.Tensor) -> float:
    probing = Probing(model, windows, partial(find_bases, model, windows))
    return sum(float(np.mean(probe(probing))) for probe in PROBES.values())


def inside(model: Any, windows: torch.Tensor) -> float:
    """What methods make of the model that cut inside blocks: by search, by gradients, and with fits."""
    view, shape = ModelView(model, windows), read_shape(model)
    one_by_one = ("sublayers", "2ssp") if len(shape.blocks[0]) == 2 else ()
    total = 0.0
    for line in (*one_by_one, "llm-pruner", "dotresize", "mixed", "fasp(repair=projections)"):
        (step,) = Recipe.parse(line).steps
        plan = step.decide(view, Budget(measure="size", amount=round(0.75 * shape.parameters)), Made(model))
        total += perplexity(step.apply(view, plan, Made(model)).model, windows).perplexity
    return total


def generated(model: Any) -> float:
    return float(sum(continue_text(OpenModel(model, byte_tokenizer()), "ab", 8).text.encode()))


JOBS: dict[str, Callable[[Any, torch.Tensor, Path], float]] = {
    "profile": lambda model, windows, _: profiled(model, windows),
    "evaluate": lambda model, windows, _: perplexity(model, windows).perplexity,
    "generate": lambda model, *_: generated(model),
    "generate, sliced": lambda model, windows, _: generated(
        slice_model(model, schedule(model), windows).model
    ),
    "lens": lambda model, windows, _: float(logit_lens(model, windows).mean()),
    "probes": lambda model, windows, _: probed(model, windows),
    "preview": lambda model, windows, folder: previewed(model, windows, folder),
    "preview, shared bases": lambda model, windows, folder: previewed(model, windows, folder, span=2),
    "slice": lambda model, windows, _: sliced(model, windows),
    "slice, shared bases": lambda model, windows, _: sliced(model, windows, span=2),
    "slice, repaired": lambda model, windows, _: sliced(model, windows, repair=True),
    "slice, on disk": lambda model, windows, _: sliced(model, windows, budget=(0, 0)),
    "remove": lambda model, windows, _: removed(model, windows),
    "remove, linear": lambda model, windows, _: removed(model, windows, "linear"),
    "remove, train-block": lambda model, windows, _: removed(model, windows, "train-block"),
    "cut inside": lambda model, windows, _: inside(model, windows),
    "remove, writers": lambda model, windows, _: removed(model, windows, "writers"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """What each job finds on the CPU."""
    found: dict[Any, float] = {}

    def on_the_cpu(job: str, family: str, dtype: torch.dtype, windows: torch.Tensor) -> float:
        if (job, family, dtype) not in found:
            model = tiny_model(family, dtype)
            found[job, family, dtype] = JOBS[job](model, windows, tmp_path_factory.mktemp("cpu"))
        return found[job, family, dtype]

    return on_the_cpu


@pytest.mark.parametrize(("family", "dtype", "place"), CASES)
@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_done_there_as_on_the_cpu(job, family, dtype, place, here, windows, tmp_path):
    windows = windows[:4]
    expected = here(job, family, dtype, windows)
    with simulated("mps" if place == "mps" else "cuda", count=2) as accelerator:
        model = placed(accelerator, tiny_model(family, dtype), place)
        assert JOBS[job](model, windows, tmp_path) == pytest.approx(expected, rel=0.02)
    assert accelerator.flops[dtype] > 0
    assert accelerator.peak > 0


def test_mps_refuses_fp64_and_what_it_lacks():
    with simulated("mps"):
        here = torch.ones(3, 3, device="mps")
        for widening in (
            lambda: here.double(),
            lambda: here.to("cpu", torch.float64),
            lambda: torch.ones(2, dtype=torch.float64).to("mps"),
            lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
            lambda: here.to(torch.ones(2, dtype=torch.float64)),
            lambda: here.mean(dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="float64"):
                widening()
        with pytest.raises(NotImplementedError, match="linalg_eigh"):
            torch.linalg.eigh(here)
        assert here.cpu().double().dtype is torch.float64


def test_operands_on_two_devices_are_refused():
    with simulated("cuda", count=2):
        one, other, host = (torch.ones(2, device=name) for name in ("cuda:0", "cuda:1", "cpu"))
        for pair in ((one, other), (one, host), (host, other)):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                torch.add(*pair)
        assert (one + torch.tensor(1.0)).device == torch.device("cuda:0")
        assert (one + other.to(one.device)).tolist() == [2.0, 2.0]
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            one.numpy()


def test_a_full_card_runs_out_of_memory_and_what_is_freed_can_be_taken_again():
    with simulated("cuda", count=2, memory=4000) as accelerator:
        first = torch.zeros(800, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="GPU 0 has a total capacity of 4000 bytes"):
            torch.zeros(800, device="cuda")
        other = torch.zeros(900, device="cuda:1")
        view = first[:10]
        del first
        assert torch.cuda.memory_allocated() == torch.cuda.memory_reserved() == 3200
        del view
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.mem_get_info() == (800, 4000)  # torch keeps the rest
        assert memory_of(torch.device("cuda")) == (4000, 4000)
        torch.zeros(900, device="cuda")
        free_memory()
        assert torch.cuda.mem_get_info() == (4000, 4000)
        assert torch.cuda.mem_get_info("cuda:1") == (400, 4000)
        assert torch.cuda.max_memory_allocated() == 3600
        assert accelerator.peak == 7200
        del other


def test_flops_copies_and_waits_are_counted():
    with simulated("cuda") as accelerator:
        one = torch.ones(2, 3).to("cuda")
        product = one @ torch.ones(3, 4, device="cuda")
        torch.nn.functional.linear(one.bfloat16(), torch.ones(5, 3, dtype=torch.bfloat16, device="cuda"))
        assert float(product.sum()) == 24.0
        product.cpu()
    assert accelerator.flops == {torch.float32: 2 * 2 * 3 * 4, torch.bfloat16: 2 * 2 * 3 * 5}
    assert accelerator.copies == {("cpu", "cuda"): 24, ("cuda", "cpu"): 32}
    assert accelerator.waits == 2


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])  # without a shift of the last norm, and with one
def test_tables_turn_some_rows_at_a_time(family):
    """All of a table in fp32 is larger than what slicing needs for a block."""
    model = tiny_model(family, torch.bfloat16, vocab_size=60_000, tie_word_embeddings=False)
    with simulated("cuda") as accelerator:
        accelerator.put(model, "cuda")
        before = accelerator.peak
        made = blank(model, schedule(model))
        fill_ends(model, made, torch.eye(32, device="cuda")[:, :24])
        new = sum(each.nbytes for name, each in made.named_parameters() if each.device.type == "cuda")
        in_fp32 = 60_000 * 32 * 4
        assert accelerator.peak - before < new + in_fp32 / 2


def test_the_batch_does_not_depend_on_what_is_free():
    with simulated("cuda", memory=8 * 10**9):
        device = torch.device("cuda")
        before = batch_tokens(device)
        held = torch.empty(10**9, dtype=torch.float32, device=device)
        assert batch_tokens(device) == before == 2000
        del held


@pytest.mark.parametrize(("emulated", "expected"), [(False, torch.bfloat16), (True, torch.float16)])
def test_bfloat16_is_chosen_where_the_device_has_it(monkeypatch, emulated, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: not emulated)
    assert pick_dtype("auto", torch.device("cuda"), torch.bfloat16) is expected


REFUSED: dict[str, tuple[str, Callable[[Any, torch.Tensor, Path], Any]]] = {
    "profile with bases": ("Finding bases", lambda model, windows, _: profiled_with_bases(model, windows)),
    "bases": ("Finding bases", lambda model, windows, _: find_bases(model, windows)),
    "slice": ("Slicing", lambda model, windows, _: slice_model(model, schedule(model), windows)),
    "preview": ("Previewing", lambda model, windows, _: recut(model, schedule(model), held_bases(model))),
    "remove": ("Removing blocks", lambda model, windows, _: removed(model, windows)),
    "remove, linear": ("Repairing", lambda model, windows, _: removed(model, windows, "linear")),
    "remove, train-block": ("Repairing", lambda model, windows, _: removed(model, windows, "train-block")),
    "remove, writers": ("Repairing", lambda model, windows, _: removed(model, windows, "writers")),
    "evaluate": ("Evaluating", lambda model, windows, _: perplexity(model, windows)),
    "lens": ("Looking through the head", lambda model, windows, _: logit_lens(model, windows)),
    "probes": ("Probing", lambda model, windows, _: probed(model, windows)),
}


def profiled_with_bases(model: Any, windows: torch.Tensor) -> None:
    profile_blocks(model, windows, model_label="", text_label="", bases=BasesCollector(model))


def held_bases(model: Any) -> Bases:
    sites, width = len(read_shape(model).sublayers), 32
    return Bases((torch.eye(width),) * sites, (torch.ones(width, dtype=torch.float64),) * sites)


@pytest.mark.parametrize("job", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(job, windows, tmp_path):
    doing, work = REFUSED[job]
    model = tiny_model("llama")
    size = sum(each.nbytes for each in model.parameters())
    with simulated("cuda", memory=size + 1000) as accelerator:
        accelerator.put(model, "cuda")
        with pytest.raises(
            OutOfMemoryError, match=rf"^{doing} does not fit on cuda:0: .*use the CPU \(device cpu\)"
        ):
            work(model, windows, tmp_path)
    assert not accelerator.flops


def needing(working: int, dense: int = 0, sliced: int = 0) -> MemoryNeed:
    return MemoryNeed(dense=dense, sliced=sliced, working=working)


@pytest.mark.parametrize(
    ("need", "held", "levers"),
    [
        (needing(2000), 0, "do half, or use the CPU (device cpu), or choose a smaller model."),
        (
            needing(300, dense=800, sliced=1200),
            0,
            "do half, or open the model in a 16-bit dtype (dtype bfloat16), or let weights rest on the host "
            "(device cuda+cpu), or use the CPU (device cpu), or choose a smaller model.",
        ),
        (
            needing(700),
            600,
            "use the CPU (device cpu), or close other programs that hold its memory, or choose a smaller "
            "model.",
        ),
        (needing(2**60), 0, "do half, or choose a smaller model."),
    ],
)
def test_only_levers_that_help_are_named(need, held, levers):
    instead = {"do half": needing(900), "do most": needing(10**6)}
    with simulated("cuda", memory=1000) as accelerator:
        model = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
        others = torch.zeros(held, dtype=torch.uint8, device="cuda")
        with pytest.raises(OutOfMemoryError) as told:
            refuse_unless_it_fits("Working", model, need, instead)
        assert str(told.value).endswith(f"To go on, {levers}")
        assert f"{accelerator.free() / 1e9:.2f} of 0.00 GB are free" in str(told.value)
        del others


def test_a_whole_job_is_refused_before_its_profile(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A whole is what has a beginning and middle and end. " * 40)
    source = TextSource.parse(str(text), "calibration")
    common: Any = {"model": ModelSource(kind="demo"), "calibration": source, "window_length": 24}
    for line, budget, doing in (
        ("slice(dynamic, rounding=1)", Budget(), "Slicing"),
        ("slice(dynamic, rounding=1, one_shot=true)", Budget(), "Finding bases"),
        ("sleb(repair=linear)", Budget.parse("blocks=1"), "Repairing"),
    ):
        request = CompressRequest(**common, recipe=Recipe.parse(line), budget=budget)
        model = tiny_model("llama")
        size = sum(each.nbytes for each in model.parameters())
        with simulated("cuda", memory=size + 1000) as accelerator:
            opened = OpenModel(accelerator.put(model, "cuda"), byte_tokenizer())
            with pytest.raises(OutOfMemoryError, match=f"{doing} does not fit"):
                perform(request, opener=lambda _, opened=opened: opened)
        assert not accelerator.flops


WHOLE = {
    "slice": ("slice(dynamic, rounding=1)", "parameters=0.2"),
    "slice, repaired, and healed": (
        "slice(dynamic, rounding=1, repair=writers) | finetune(tokens=96)",
        "parameters=0.2",
    ),
    "remove, and distilled": ("sleb(repair=linear) | distil(tokens=96)", "blocks=1"),
    "cut inside": ("fasp(repair=projections)", "parameters=0.2"),
}


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """The fields of a request for the tiny model, which is opened elsewhere, and for text of three kinds."""
    texts = {}
    for kind in ("calibration", "evaluation", "healing"):
        path = tmp_path / f"{kind}.txt"
        path.write_text(f"For {kind} there is a text of its own, with a beginning and an end. " * 60)
        texts[kind] = TextSource.parse(str(path), kind if kind != "healing" else "calibration")
    return {
        "model": ModelSource(kind="demo"),
        "calibration": texts["calibration"],
        "evaluation": texts["evaluation"],
        "healing_text": texts["healing"],
        "window_length": 24,
        "calibration_windows": 8,
        "evaluation_windows": 8,
    }


@pytest.mark.parametrize("name", WHOLE)
def test_a_device_without_fp64_does_the_whole_job(name, asked, tmp_path):
    """From opening to the folder that is written, and what was written opens again."""
    line, budget = WHOLE[name]
    request = CompressRequest(**asked, recipe=Recipe.parse(line), budget=Budget.parse(budget))
    with simulated("mps") as accelerator:
        opened = OpenModel(accelerator.put(tiny_model("llama"), "mps"), byte_tokenizer())
        run: Any = perform(request, opener=lambda _: opened)
    assert accelerator.flops[torch.float32] > 0
    assert not accelerator.flops[torch.float64]
    written = ModelSource(kind="folder", location=str(folder_of(request) / MODEL_FOLDER), device="cpu")
    windows = token_windows(asked["evaluation"], byte_tokenizer(), 24, 8)
    saved = perplexity(open_model(written).model, windows).perplexity
    assert saved == pytest.approx(run.result.smaller.perplexity, rel=1e-4)
    here: Any = perform(request, opener=lambda _: OpenModel(tiny_model("llama"), byte_tokenizer()))
    assert run.result.smaller.perplexity == pytest.approx(here.result.smaller.perplexity, rel=0.02)


def test_a_device_without_fp64_compares_recipes(asked):
    """With draws of noise, losses by window, an illustration, speed, and a profile that is stored."""
    lines = ("slice(constant, rounding=1)", "slice(dynamic, rounding=1)", "shortgpt")
    study = Study(
        **asked,
        recipes=tuple(Recipe.parse(line) for line in lines),
        budgets=(Budget.parse("parameters=0.2"),),
        seeds=(0,),
        jitter=1,
        new_tokens=4,
        speed_rounds=1,
    )
    with simulated("mps") as accelerator:
        opened = OpenModel(accelerator.put(tiny_model("llama"), "mps"), byte_tokenizer())
        run: Any = perform(study, opener=lambda _: opened)
    assert not accelerator.flops[torch.float64]
    assert all(np.isfinite(each.evaluation.perplexity) for each in run.result.measurements)


@pytest.mark.parametrize("place", PLACES)
def test_the_python_interface_takes_a_model_that_is_there(place, tokenizer):
    text = ["A whole is what has a beginning and middle and end. " * 40]
    said: dict[str, Any] = {"windows": 8, "window_length": 32, "progress": False, "tokenizer": tokenizer}

    def found(model: Any) -> tuple[float, float]:
        profile = slicing.profile(model, text, **said)
        planned = slicing.plan(profile, 0.25, rounding=1)
        made = slicing.compress(model, planned, text=text, evaluation=text, evaluation_windows=8, **said)
        assert made.result.smaller is not None
        return slicing.evaluate(model, text, **said).perplexity, made.result.smaller.perplexity

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # both are on one text
        expected = found(tiny_model("llama"))
        with simulated("mps" if place == "mps" else "cuda", count=2) as accelerator:
            model = placed(accelerator, tiny_model("llama"), place)
            before = [each.device for each in model.parameters()]
            assert found(model) == pytest.approx(expected, rel=0.02)
            assert [each.device for each in model.parameters()] == before
    assert accelerator.peak > 0

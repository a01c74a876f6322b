"""Training where memory is short: blocks that run twice, and moments in 8 bits."""

from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import Tensor, nn
from torch.nn import functional

from analysis import needs
from analysis.anatomy import blocks
from analysis.errors import OutOfMemoryError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.read_shape import read_shape
from slicing.budget import Budget
from slicing.healing.examples import Examples
from slicing.healing.limits import Limits
from slicing.healing.need import training_need
from slicing.healing.resume import Resume
from slicing.healing.short import checkpointed, optimiser_of, set_rate
from slicing.healing.student import student_of, trainable
from slicing.healing.training import Settings, train
from slicing.steps import find_step
from slicing.steps.base import Made
from slicing.steps.healing import Training
from slicing.studies.recipe import Recipe
from slicing.studies.run import make_smaller
from slicing.view import ModelView

FORMS = (
    "shortgpt",
    "slice(constant, rounding=1)",
    "fasp",
    "llm-streamline(repair=linear)",
)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Have matrix products in fp32, whatever the processor multiplies in."""
    monkeypatch.setattr("slicing.steps.healing.training_precision", lambda device: "exact")


def drawn(count: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 60, (count, 24), generator=torch.Generator().manual_seed(seed))


def next_token(model: Any, rows: Examples) -> Tensor:
    logits = model(rows.tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, rows.tokens[:, 1:].flatten())


def made_of(line: str) -> Made:
    view = ModelView(tiny_model("llama", num_hidden_layers=6), drawn(8))
    return make_smaller(Recipe.parse(line), Budget.parse("parameters=0.2"), view)[0]


def gradients(student: nn.Module) -> tuple[int, dict[str, Tensor]]:
    """Bytes that the graph keeps beside the weights, and the gradients."""
    weights = {each.untyped_storage().data_ptr() for each in student.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = next_token(student, Examples.of(drawn(4)))
    saved = sum(each.untyped_storage().nbytes() for each in kept.values())
    kept.clear()
    loss.backward()
    found = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
    student.zero_grad(set_to_none=True)
    return saved, found


@pytest.mark.parametrize("how", ["all", "lora"])
@pytest.mark.parametrize("line", FORMS)
def test_blocks_that_run_twice_have_the_same_gradients_and_keep_less(line, how):
    student = student_of(made_of(line).model)
    trainable(student, how, 4, 8.0)
    saved, plain = gradients(student)
    forwards = [each.forward for each in blocks(student)]
    with checkpointed(student):
        less, again = gradients(student)
        assert perplexity(student, drawn(2)).nll
    assert plain
    assert plain.keys() == again.keys()
    assert all(plain[name].equal(each) for name, each in again.items())
    logits = 4 * 24 * 300 * 4
    assert less - 2 * logits < 0.4 * (saved - 2 * logits)
    assert [each.forward for each in blocks(student)] == forwards


@pytest.mark.parametrize(
    "line", ["distil(tokens=2000{})", "distil(tokens=2000, states=1{})", "finetune(tokens=2000{})"]
)
def test_training_that_runs_blocks_twice_ends_with_the_same_weights(line):
    made = {}
    for setting in ("off", "on"):
        recipe = Recipe.parse("shortgpt | " + line.format(f", rate=0.003, checkpointing={setting}"))
        view = ModelView(
            tiny_model("llama", num_hidden_layers=5), drawn(8), healing_windows=lambda: drawn(40, 1)
        )
        made[setting] = make_smaller(recipe, Budget.parse("parameters=0.2"), view)[0]
    off, on = (made[setting].healed[0] for setting in ("off", "on"))
    assert off.kept
    assert (off.checkpointed, on.checkpointed) == (False, True)
    assert "running every block twice" in on.told
    assert off.looks == on.looks
    weights = made["off"].model.state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in made["on"].model.state_dict().items())


def test_a_form_that_cannot_run_blocks_twice_is_told_in_one_sentence():
    student = student_of(tiny_model("llama", num_hidden_layers=2))
    student.supports_gradient_checkpointing = False
    with (
        pytest.raises(UnsupportedError, match="of type 'llama' cannot be run a second time"),
        checkpointed(student),
    ):
        pass


@pytest.fixture
def room(monkeypatch):
    """Say how many bytes are free."""

    def free(size: float) -> None:
        monkeypatch.setattr(needs, "memory_of", lambda device: (int(size), 10**12))

    return free


def healed(line: str) -> Made:
    view = ModelView(tiny_model("llama", num_hidden_layers=6), drawn(8), healing_windows=lambda: drawn(40, 1))
    return make_smaller(Recipe.parse(f"shortgpt | {line}"), Budget.parse("parameters=0.2"), view)[0]


def test_blocks_run_twice_by_themselves_where_training_does_not_fit_else(room):
    shape = read_shape(tiny_model("llama", num_hidden_layers=6))
    size = sum(each.numel() for each in made_of("shortgpt").model.parameters())
    line = "distil(tokens=500, batch=32)"
    step = Recipe.parse(f"shortgpt | {line}").steps[-1]
    once, twice = (step.training_need(shape, size, 24, 2048, 4, each) for each in (False, True))  # type: ignore[attr-defined]
    assert twice.working < 0.75 * once.working
    between = (once.least + twice.least) / 2 - once.dense
    room(once.least)
    assert not healed(line).healed[0].checkpointed
    room(between)
    assert healed(line).healed[0].checkpointed
    with pytest.raises(OutOfMemoryError, match="Training what is left does not fit"):
        healed("distil(tokens=500, batch=32, checkpointing=off)")
    room(twice.least - twice.dense - 1000)
    with pytest.raises(OutOfMemoryError, match=r"keep moments in 8 bits \(moments=8-bit\)"):
        healed(line)


def test_what_training_needs_follows_what_is_asked_for():
    shape = read_shape(tiny_model("llama"))
    size = shape.parameters
    usual = training_need(shape, size, size, 240, 4)
    eight = training_need(shape, size, size, 240, 4, eight_bit=True)
    assert usual.sliced - eight.sliced == pytest.approx(size * 5.97, rel=1e-3)
    adapters = training_need(shape, size, 100, 240, 4, adapters=True)
    held = sum(shape.block_parameters(place) for place in range(shape.block_count))
    assert adapters.working - usual.working == pytest.approx(4 * held, rel=1e-3)


def test_moments_in_8_bits_without_torchao_are_refused_before_any_work(monkeypatch):
    usual = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    step = find_step("distil").from_said({"moments": "8-bit"})
    with pytest.raises(UnsupportedError, match="need the package torchao, which is not installed"):
        step.check(ModelView(tiny_model("llama"), drawn(8)), Budget.parse("parameters=0.2"))
    assert issubclass(type(step), Training)


@pytest.fixture
def eager():
    """Have torchao, whose steps are not compiled here: that takes a minute for every shape."""
    pytest.importorskip("torchao.optim")
    with torch.compiler.set_stance("force_eager"):
        yield


def held(optimiser: torch.optim.Optimizer) -> int:
    """Bytes of the moments."""
    listed = [each for state in optimiser.state.values() for name, each in state.items() if name != "step"]
    return sum(
        each.codes.nbytes + each.scale.nbytes if hasattr(each, "codes") else each.nbytes for each in listed
    )


@pytest.mark.usefixtures("eager")
def test_moments_in_8_bits_take_a_quarter_and_nearly_the_same_steps():
    target, sizes, ends = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), [], []
    for moments in ("fp32", "8-bit"):
        weight = nn.Parameter(torch.zeros(64, 64))
        optimiser = optimiser_of([weight], 1e-2, moments)
        for step in range(60):
            set_rate(optimiser, 1e-2 * (1.0 - step / 60))
            optimiser.zero_grad()
            (weight - target).square().sum().backward()
            optimiser.step()
        sizes.append(held(optimiser))
        ends.append(weight.detach().clone())
    assert sizes[1] < 0.26 * sizes[0]
    assert 0.0 < float((ends[0] - ends[1]).abs().max()) < 0.05
    assert float((ends[1] - target).square().mean()) < 0.7 * float(target.square().mean())


@pytest.mark.usefixtures("eager")
def test_a_training_with_moments_in_8_bits_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    whole = student_of(tiny_model("llama", num_hidden_layers=1, hidden_size=64))
    broken, again = copy.deepcopy(whole), copy.deepcopy(whole)
    settings = Settings("it", 1e-2, 4, 0, "exact", "8-bit")

    def trained(student: Any, loss: Any = next_token, resume: Resume | None = None) -> None:
        trainable(student, "all", 1, 1.0)
        text, held = Examples.of(drawn(32, 1)), Examples.of(drawn(8))
        train(student, loss, text, held, Limits(2000), settings, lambda used: None, resume)

    calls = 0

    def dies(model: Any, rows: Examples) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise KeyboardInterrupt
        return next_token(model, rows)

    trained(whole)
    with pytest.raises(KeyboardInterrupt):
        trained(broken, dies, Resume("one", every=0.0))
    assert Resume("one").load()
    trained(again, resume=Resume("one", every=0.0))
    assert all(tensor.equal(whole.state_dict()[name]) for name, tensor in again.state_dict().items())

"""What units are worth: every score against its definition, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.curvature import gradients
from analysis.sublayers import out_in, sublayers
from slicing.inner import select
from slicing.inner.moments import writer_moments
from slicing.inner.obs import DAMPING
from slicing.inner.scores import UNIT_SCORES
from slicing.inner.select import unit_scores
from slicing.inner.taylor import of_units, weight_salience
from slicing.view import ModelView

WINDOWS = torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(3))
KINDS: Any = ("channels", "kv_groups", "value_pairs")
PLACE = 1
"""The block that is looked at."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def read(model) -> torch.Tensor:
    """What the down projection of a block reads, (tokens, channels)."""
    seen: list[torch.Tensor] = []
    down = model.model.layers[PLACE].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(WINDOWS, use_cache=False)
    handle.remove()
    return seen[0].flatten(0, 1).double()


def channels(model: Any, name: str) -> np.ndarray:
    return unit_scores(ModelView(model, WINDOWS), name, KINDS)[PLACE, 1, "channels"]


@pytest.mark.parametrize("name", UNIT_SCORES)
def test_every_score_says_what_it_is_and_tells_every_unit_of_every_kind(name, model):
    from app.citations import ENTRIES

    score = UNIT_SCORES[name]
    assert score.name == name
    assert score.title and score.source and type(score).__doc__
    assert not score.cite or score.cite.startswith("@") or score.cite in ENTRIES
    found = unit_scores(ModelView(model, WINDOWS), name, KINDS)
    counts = {"channels": 48, "kv_groups": 2, "value_pairs": 16}
    branches = {"channels": 1, "kv_groups": 0, "value_pairs": 0}
    assert {key: len(each) for key, each in found.items()} == {
        (place, branches[kind], kind): count for place in range(3) for kind, count in counts.items()
    }
    for each in found.values():
        assert np.isfinite(each).all()
        assert len(set(each.tolist())) > 1
    again = unit_scores(ModelView(model, WINDOWS), name, KINDS)
    assert all(np.array_equal(found[key], again[key]) for key in found)


@pytest.mark.parametrize("family", ["gpt2", "falcon", "llama untied, biases, long heads"])
@pytest.mark.parametrize("name", UNIT_SCORES)
def test_every_score_knows_other_families(name, family):
    found = unit_scores(ModelView(tiny_model(family), WINDOWS), name, KINDS)
    assert {kind for _, _, kind in found} == set(KINDS)
    assert all(np.isfinite(each).all() for each in found.values())


def test_activation_is_the_rms_over_tokens(model, read):
    assert channels(model, "activation") == pytest.approx(read.square().mean(0).sqrt().numpy(), rel=1e-4)


def test_leverages_add_up_to_the_effective_dimension(model, read):
    moment = read.T @ read / len(read)
    ridge = moment.diagonal().mean()
    expected = (moment @ torch.linalg.inv(moment + ridge * torch.eye(len(moment)))).diagonal()
    found = channels(model, "leverage")
    assert found == pytest.approx(expected.numpy(), rel=1e-4)
    values = torch.linalg.eigvalsh(moment)
    assert found.sum() == pytest.approx(float((values / (values + ridge)).sum()), rel=1e-4)


def test_leverage_does_not_depend_on_the_scale_of_activations(model):
    other = tiny_model("llama")
    for block in other.model.layers:
        block.mlp.up_proj.weight.mul_(8.0)
        block.mlp.down_proj.weight.div_(8.0)
    assert channels(other, "leverage") == pytest.approx(channels(model, "leverage"), rel=1e-4)


def test_fisher_is_the_square_of_what_a_factor_on_a_channel_does_to_the_loss(model, read):
    """The gradient of the factor is had token by token from automatic differentiation."""
    own: list[torch.Tensor] = []

    def slope(sublayer: Any, entering: Any, gradient: Any, context: Any, token: int) -> torch.Tensor:
        factor = torch.ones(48, requires_grad=True)
        handle = sublayer.writers[0].register_forward_pre_hook(lambda _, args: (args[0] * factor,))
        with torch.enable_grad():
            added = sublayer.added(entering, context)[0, token] @ gradient[0, token]
        handle.remove()
        return torch.autograd.grad(added, factor)[0]

    def visit(block: int, row: int, streams: Any, gradient: Any, context: Any) -> None:
        if (block, row) != (PLACE, 1):
            return
        entering = streams[0]
        sublayer = sublayers(model)[block][row]
        for token in range(entering.shape[1]):
            own.append(slope(sublayer, entering, gradient, context, token))

    gradients(model, WINDOWS, visit, "sampled", 0)
    expected = torch.stack(own).double().square().mean(0)
    assert channels(model, "fisher") == pytest.approx(expected.numpy(), rel=1e-3)


def text_gradients(model: Any, windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss of the windows, all at once, by automatic differentiation."""
    copy = tiny_model("llama").requires_grad_(True)
    copy.load_state_dict(model.state_dict())
    logits = copy(windows, use_cache=False).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()).backward()
    return {name: p.grad.double() for name, p in copy.named_parameters() if p.grad is not None}


def test_taylor_sums_over_all_weights_that_go_with_a_unit(model):
    found = unit_scores(ModelView(model, WINDOWS), "taylor", KINDS)
    slopes, weights = text_gradients(model, WINDOWS), dict(model.named_parameters())

    def entries(name: str) -> torch.Tensor:
        full = f"model.layers.{PLACE}.{name}.weight"
        return (slopes[full] * weights[full].double()).abs()

    channel = (
        entries("mlp.gate_proj").sum(1) + entries("mlp.up_proj").sum(1) + entries("mlp.down_proj").sum(0)
    )
    assert found[PLACE, 1, "channels"] == pytest.approx(channel.numpy(), rel=1e-3)
    group = (  # two query heads of 8 for every head of keys and values
        entries("self_attn.q_proj").view(2, -1).sum(1)
        + entries("self_attn.k_proj").view(2, -1).sum(1)
        + entries("self_attn.v_proj").view(2, -1).sum(1)
        + entries("self_attn.o_proj").T.reshape(2, -1).sum(1)
    )
    assert found[PLACE, 0, "kv_groups"] == pytest.approx(group.numpy(), rel=1e-3)


def test_forms_of_the_taylor_expansion_are_those_written_down(model):
    from analysis.read_units import read_units

    units = read_units(model)[PLACE][1].of("channels")[0]
    weights = dict(model.named_parameters())
    each = [text_gradients(model, window) for window in WINDOWS.split(1)]
    vector, second = np.zeros(48), np.zeros(48)
    for name, own in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0)):
        full = f"model.layers.{PLACE}.mlp.{name}.weight"
        weight = weights[full].double()
        slope = torch.stack([slopes[full] for slopes in each])
        vector += (slope.mean(0) * weight).sum(own).abs().numpy()
        change = slope.mean(0) * weight - slope.square().mean(0) * weight.square() / 2
        second += change.abs().sum(own).numpy()
    of_vector = of_units(units, weight_salience(model, WINDOWS, "vector")[PLACE, 1])
    assert of_vector == pytest.approx(vector, rel=1e-3, abs=1e-7)
    of_second = of_units(units, weight_salience(model, WINDOWS, "element-2")[PLACE, 1])
    assert of_second == pytest.approx(second, rel=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_obs_takes_out_what_costs_least_first(model):
    """The first to go are those that are cheapest alone; the places are each given once."""
    found = channels(model, "obs")
    assert sorted(found.tolist()) == list(range(48))
    view = ModelView(model, WINDOWS)
    sublayer, curved = sublayers(model)[PLACE][1], select.view_curvature(view).moments[PLACE][1]
    moments: dict[tuple[int, int], torch.Tensor] = {}
    writer_moments(model, WINDOWS, lambda b, r, s, found: moments.update({(b, r): found[0]}))
    moment = moments[PLACE, 1]
    weight = out_in(sublayer.writers[0]).double()
    damped = moment + torch.diag(DAMPING * moment.diagonal() + 1e-9 * moment.diagonal().max())
    costs = torch.einsum("dj,de,ej->j", weight, curved.double(), weight) / torch.linalg.inv(damped).diagonal()
    assert int(np.argmin(found)) == int(costs.argmin())


@pytest.mark.parametrize(
    ("name", "measured"), [("fisher", "writer_slopes"), ("obs", "curvature"), ("taylor", "weight_salience")]
)
def test_what_a_score_asks_for_is_measured_once_for_all_kinds(name, measured, model, monkeypatch):
    calls: list[str] = []
    real = getattr(select, measured)
    monkeypatch.setattr(
        select, measured, lambda *args, **named: (calls.append(name), real(*args, **named))[1]
    )
    view = ModelView(model, WINDOWS)
    several: Any = (("channels",), ("kv_groups",), KINDS)
    for kinds in several:
        unit_scores(view, name, kinds)
    assert calls == [name]

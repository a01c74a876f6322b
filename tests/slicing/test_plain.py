"""Plain models in one basis: an ordinary checkpoint with a smaller hidden size is the cut model exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from alone import alone
from conftest import FAMILIES, byte_tokenizer, tiny_model
from every_family import tiny
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.anatomy import anatomy_of, blocks, final_norm, norm_gain
from analysis.errors import PlanError, UnsupportedError
from analysis.families import ANATOMIES
from analysis.hooks import watch_blocks
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource, is_sliced
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from slicing import slicer
from slicing.assembly import blank, fill_in_bases
from slicing.basis import BASES
from slicing.budget import Budget
from slicing.depth.operator import set_parameter
from slicing.plain import as_plain, width_step
from slicing.plans import Slicing
from slicing.schedule import SlicingSchedule, plain_at
from slicing.slicer import slice_model
from slicing.steps.base import Made
from slicing.store import open_model
from slicing.studies.judge import count_parameters
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest
from slicing.studies.run import check_recipe, make_smaller, perform
from slicing.studies.store import MODEL_FOLDER
from slicing.view import ModelView

W = 24
UNFIT = {"olmoe", "helium"}
"""Types whose parameters depend on the hidden size in another way: norms of all queries, a square map."""


def centred(config: Any) -> bool:
    return anatomy_of(config).centred


ROOT_NORMED = [name for name in FAMILIES if name not in UNFIT and not centred(tiny_model(name).config)]
EVERY = [name for name in sorted(ANATOMIES) if not centred(tiny(name).config)]


def in_one_basis(model: PreTrainedModel, width: int = W) -> SlicingSchedule:
    return SlicingSchedule.in_one_basis(read_shape(model), width)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class Noted(slicer._Rotated):
    """Keeps the streams of all that is sliced."""

    all: list[Any] = []  # noqa: RUF012

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        Noted.all.append(self)


@pytest.fixture
def streams(monkeypatch) -> list[Any]:
    monkeypatch.setattr(Noted, "all", [])
    monkeypatch.setattr(slicer, "_Rotated", Noted)
    return Noted.all


def cut_as_before(model: PreTrainedModel, basis: Tensor) -> Any:
    """The same cut by the class that slices with shortcut matrices, where the head reads the whole stream.

    What its last sub-layer writes is projected on the basis, so that nothing else reaches the head.
    """
    hidden, width = basis.shape
    count = len(blocks(model))
    widths = (*(width,) * count, hidden)
    schedule = SlicingSchedule(hidden_size=hidden, widths=widths, embedding="untied", span=count)
    sliced = blank(model, schedule)
    whole = torch.eye(hidden, dtype=basis.dtype)
    sites, last = len(read_shape(model).sublayers), None
    for site in fill_in_bases(model, sliced, schedule, lambda place, _: whole if place == sites else basis):
        last = site
    assert last is not None
    for core, branch in zip(last.sliced.cores, last.branches, strict=True):
        for name in branch.writers:
            for key, parameter in list(core.named_parameters()):
                if key.startswith(name):
                    set_parameter(core, key, basis @ (basis.T @ parameter))
    return sliced


# The same function


@pytest.mark.parametrize("family", ROOT_NORMED)
def test_a_plain_model_has_the_logits_of_the_same_cut(family, windows, streams):
    model = tiny_model(family, torch.float64)
    made = slice_model(model, in_one_basis(model), windows)
    assert type(made.model) is type(model)
    assert made.model.config.hidden_size == W
    expected = cut_as_before(model, streams[0].basis)(windows).logits
    assert relative_error(made.model(windows).logits, expected) < 1e-9
    assert relative_error(model(windows).logits, expected) > 1e-3  # something was cut


@pytest.mark.parametrize("family", ROOT_NORMED)
def test_a_plain_model_at_full_width_is_the_dense_one(family, windows):
    model = tiny_model(family, torch.float64)
    made = slice_model(model, in_one_basis(model, 32), windows)
    assert relative_error(made.model(windows).logits, model(windows).logits) < 1e-9


def test_head_and_embedding_are_those_of_the_formulas(windows, streams):
    model: Any = tiny_model("gemma", torch.float64)
    made: Any = slice_model(model, in_one_basis(model), windows).model
    basis, scale = streams[0].basis, (W / 32) ** 0.5
    embedded = model.model.embed_tokens(windows)
    assert torch.allclose(made.model.embed_tokens(windows), embedded @ basis * scale)
    gain = norm_gain(final_norm(model), anatomy_of(model.config), model.lm_head.weight)
    assert torch.allclose(made.lm_head.weight, model.lm_head.weight * gain @ basis / scale)
    assert not made.model.norm.weight.any()  # Gemma stores a gain of one as zero
    assert made.lm_head.weight is not made.model.embed_tokens.weight
    assert made.config.tie_word_embeddings is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_costs_rounding_only(dtype, windows):
    model = tiny_model("qwen3")
    expected = slice_model(model, in_one_basis(model), windows).model(windows).logits
    low = model.to(dtype)
    found = slice_model(low, in_one_basis(low), windows).model(windows).logits
    assert found.dtype is dtype
    assert relative_error(found.float(), expected) < (1e-5 if dtype is torch.float32 else 0.1)


def test_the_basis_counts_every_token_of_every_site_alike(windows, streams):
    model = tiny_model("llama", torch.float64)
    slice_model(model, in_one_basis(model), windows)
    states: list[Tensor] = []
    norms = [getattr(block, name) for block in blocks(model) for name in ("input_layernorm",)]
    norms += [block.post_attention_layernorm for block in blocks(model)] + [final_norm(model)]
    handles = [
        norm.register_forward_pre_hook(lambda _, args: states.append(args[0].reshape(-1, 32)))
        for norm in norms
    ]
    model(windows)
    for handle in handles:
        handle.remove()
    assert len(states) == 7
    rows = torch.nn.functional.normalize(torch.cat(states))
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    wanted, found = vectors[:, -W:], streams[0].basis
    assert torch.allclose(found @ found.T, wanted @ wanted.T, atol=1e-8)


@pytest.mark.parametrize("model_type", EVERY)
def test_every_family_reopens_as_an_ordinary_checkpoint_or_is_refused(model_type, tmp_path):
    model = tiny(model_type)
    windows = torch.randint(3, 90, (4, 16), generator=torch.Generator().manual_seed(1))
    if model_type in UNFIT:
        with pytest.raises(UnsupportedError, match=r"^The .* cannot say another hidden size alone .*\.$"):
            width_step(model)
        return
    schedule = in_one_basis(model)
    made = slice_model(model, schedule, windows).model
    assert read_shape(made) == schedule.shape_after(read_shape(model))
    assert count_parameters(made) == schedule.shape_after(read_shape(model)).parameters
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(again) is type(model)
    assert torch.equal(again(windows).logits, made(windows).logits)


SCRIPT = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
asked = load_file(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    found = model(asked["windows"]).logits
assert not [name for name in sys.modules if name.partition(".")[0] in ("slicing", "analysis")]
assert torch.equal(found, asked["logits"]), float((found - asked["logits"]).abs().max())
text = model.generate(asked["windows"][:1], max_new_tokens=5, do_sample=False, pad_token_id=0)
print(type(model).__name__, model.config.hidden_size, text.shape[1])
"""


@pytest.mark.parametrize(("family", "kind"), [("llama", "LlamaForCausalLM"), ("gemma", "GemmaForCausalLM")])
def test_transformers_alone_opens_it_in_another_process(family, kind, tmp_path, windows):
    text = tmp_path / "text.txt"
    text.write_text("A plain model is one that every tool opens, and this text is read by one. " * 40)
    source = TextSource.parse(str(text), "calibration")
    model = tiny_model(family)
    request = CompressRequest(
        model=ModelSource(kind="hub", location="slicescope/plain"),
        calibration=source,
        calibration_windows=4,
        profile_windows=2,
        window_length=16,
        recipe=Recipe.parse("slice(plain=true, repair=writers)"),
        budget=Budget.parse("mean_slice=0.25"),
    )
    run = perform(request, opener=lambda _: OpenModel(model, byte_tokenizer()))
    assert run.result.kind == "compress"
    assert run.result.plain
    folder = runs_folder() / run.key / MODEL_FOLDER
    names = {path.name for path in folder.iterdir()}
    assert not any(name.startswith("modeling_") for name in names)
    assert "slicescope.json" not in names
    opened = ModelSource.parse(str(folder), dtype="float32")
    assert not is_sliced(opened)
    made = open_model(opened).model
    assert count_parameters(made) == run.result.parameters
    save_file({"windows": windows, "logits": made(windows).logits}, tmp_path / "asked.safetensors")
    answer = alone(SCRIPT, folder, tmp_path / "asked.safetensors", cwd=tmp_path)
    assert answer.stdout.split()[:2] == [kind, "24"], answer.stderr[-2000:]
    _says_what_it_costs((folder / "README.md").read_text(), request, model, run.result.parameters)


def _says_what_it_costs(card: str, request: CompressRequest, model: Any, parameters: int) -> None:
    shape = read_shape(model)
    assert f"{parameters:,} parameters" in card
    assert "24 of 32 dimensions" in card
    assert "trust_remote_code" not in card
    (warned,) = [each for each in request.warnings(shape) if "two tables" in each]
    assert f"{shape.vocab_size:,} parameters for every dimension" in warned
    assert warned in card
    assert f"costs {shape.vocab_size * 24:,} parameters" in card


def test_a_model_with_two_tables_is_not_warned_of_a_second():
    shape = read_shape(tiny_model("phi3"))
    assert not shape.tied
    (step,) = Recipe.parse("slice(plain=true)").steps
    assert step.warnings(shape) == ()


# Repair


@pytest.mark.parametrize("family", [name for name in ROOT_NORMED if not name.endswith(("mixtral", "moe"))])
def test_writers_are_fitted_block_by_block_and_the_stream_is_that_of_the_model(
    family, windows, streams, monkeypatch
):
    losses = iter([0.0, 1.0])  # of the repaired model, and of the other one
    monkeypatch.setattr(slicer, "_loss", lambda *_: next(losses))
    model = tiny_model(family, torch.float64)
    made = slice_model(model, in_one_basis(model), windows, repair=True)
    assert made.repair is not None
    assert made.repair.kept
    assert all(each.after <= each.before for each in made.repair.sublayers)
    leaving = {}
    with watch_blocks(made.model, lambda block, _, states: leaving.update({block: states})):
        made.model(windows, use_cache=False)
    stream = streams[0].stream
    last = torch.cat([stream.at(index) for index in range(len(stream))])
    assert torch.allclose(last, leaving[len(blocks(model)) - 1], rtol=1e-8, atol=1e-9)
    plain = slice_model(model, in_one_basis(model), windows)
    fitted = any(each.ridge is not None for each in made.repair.sublayers)
    same = torch.equal(plain.model(windows).logits, made.model(windows).logits)
    assert fitted != same


# Refusals


def view_of(model: Any, count: int = 16) -> ModelView:
    windows = torch.randint(3, 300, (count, 16), generator=torch.Generator().manual_seed(3))
    profile = profile_blocks(model, windows[:4], model_label="", text_label="")
    return ModelView(model, windows, profile, profile_windows=4)


@pytest.mark.parametrize(
    "family", ["gpt2", "opt", "gpt_neox", "falcon, sequential", "cohere", "olmo", "olmoe"]
)
def test_other_families_are_refused_in_one_sentence_before_any_work(family):
    view = view_of(tiny_model(family))
    with pytest.raises(UnsupportedError, match=r"^[^\n]* slice it without 'plain'\.$") as told:
        check_recipe(Recipe.parse("slice(plain=true)"), Budget(), view)
    assert ". " not in str(told.value)


def test_a_family_that_uses_its_hidden_size_otherwise_is_found_out(windows, monkeypatch):
    model = tiny_model("llama")
    made: list[Any] = []

    def kept(dense: Any, sliced: Any) -> Any:
        made.append(sliced)
        return as_plain(dense, sliced)

    monkeypatch.setattr(slicer, "as_plain", kept)
    slice_model(model, in_one_basis(model), windows)
    forward = type(model).forward

    def scaled(self: Any, *given: Any, **named: Any) -> Any:
        output = forward(self, *given, **named)
        output.logits = output.logits * self.config.hidden_size / 32
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(UnsupportedError, match=r"the model's logits are .*% off"):
        as_plain(model, made[0])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("slice(dynamic, plain=true)", "'dynamic' gives each block its own: choose 'constant'"),
        ("slice(searched, plain=true)", "'searched' gives each block its own"),
        ("slice(water-filling, plain=true)", "'water-filling' gives each block its own"),
        ("slice(random, plain=true)", "'random' gives each block its own"),
        ("slice(manual, plain=true, shares=(0.1, 0.2,))", "'manual' gives each block its own"),
        ("slice(plain=true, blocks_per_basis=3)", "leave out 'blocks_per_basis'"),
        ("slice(plain=true, embedding=shared)", "leave out 'embedding=shared'"),
    ],
)
def test_what_one_basis_cannot_be_is_refused(line, said):
    with pytest.raises(PlanError, match=said):
        Recipe.parse(line)


@pytest.mark.parametrize(
    "line", ["slice(manual, plain=true, shares=(0.2, 0.2, 0.2,))", "slice(rising, plain=true, slope=0)"]
)
def test_every_allocation_that_is_constant_will_do(line):
    model = tiny_model("llama")
    view = view_of(model)
    found = [
        Recipe.parse(each).steps[0].decide(view, Budget(amount=0.4), Made(model))
        for each in (line, "slice(plain=true)")
    ]
    assert found[0] == found[1]


# Recipes and budgets


def test_a_recipe_says_that_it_is_plain():
    recipe = Recipe.parse("slice(plain=true)")
    assert recipe.line == "slice(constant, plain=true)"
    assert Recipe.parse(recipe.line) == recipe == Recipe.from_json(recipe.to_json(), "it")
    assert recipe.title == "Slicing, constant (SliceGPT), one basis for all blocks"
    assert (recipe.short, recipe.short_title) == ("plain", "One basis, plain model")
    assert recipe.key != Recipe.parse("slice(constant)").key
    assert Recipe.parse("slice(constant, plain=false)") == Recipe.parse("slice(constant)")


def test_there_is_one_way_to_find_one_basis():
    recipe = Recipe.parse("slice(plain=true, repair=writers)")
    assert Recipe.parse("slice(plain=true, repair=writers, one_shot=true)") == recipe
    assert recipe.in_form(Slicing(embedding="shared", rounding=4), one_shot=True).line == (
        "slice(constant, rounding=4, plain=true, repair=writers)"
    )
    (step,) = recipe.steps
    assert step.preview() == Recipe.parse("slice(plain=true)").steps[0]


@pytest.fixture(scope="module")
def view() -> ModelView:
    return view_of(tiny_model("llama", num_hidden_layers=6))


def widths_and_sizes(view: ModelView, step: int) -> dict[int, int]:
    shape = view.shape
    some = [*range(step, shape.hidden_size, step), shape.hidden_size]
    return {each: SlicingSchedule.in_one_basis(shape, each).shape_after(shape).parameters for each in some}


@pytest.mark.parametrize(
    "budget", ["parameters=0.3", "parameters=0.5", "size=23000", "like_constant=0.4", "blocks=2"]
)
@pytest.mark.parametrize("rounding", [1, 8])
def test_the_width_of_the_nearest_size_is_found(view, budget, rounding):
    asked, shape = Budget.parse(budget), view.shape
    wanted = asked.parameters(shape)
    if wanted is None:
        constant = Recipe.parse(f"slice(constant, rounding={rounding})").steps[0]
        wanted = constant.plan_at(asked).constant(shape).shape_after(shape).parameters  # type: ignore[attr-defined]
    recipe = Recipe.parse(f"slice(plain=true, rounding={rounding})")
    check_recipe(recipe, asked, view)
    made, deciding = make_smaller(recipe, asked, view)
    assert deciding == 0.0  # nothing was measured for it
    assert made.sliced is not None
    sizes = widths_and_sizes(view, max(rounding, 4))  # four heads, which Llama's check wants a multiple of
    nearest = min(sizes, key=lambda width: abs(sizes[width] - wanted))
    assert abs(sizes[made.sliced.schedule.widths[0]] - wanted) == abs(sizes[nearest] - wanted)
    assert count_parameters(made.model) == sizes[made.sliced.schedule.widths[0]]


@pytest.mark.parametrize(
    ("target", "width"), [(0.25, 24), (0.3, 24), (0.5, 16), (0.05, 28), (0.89, 4), (0.0, 32)]
)
def test_a_mean_slice_is_met_by_the_nearest_width(view, target, width):
    (step,) = Recipe.parse("slice(plain=true, rounding=1)").steps
    schedule = step.decide(view, Budget(amount=target), Made(view.model))
    assert schedule.widths == (width,) * 7  # type: ignore[union-attr]


def test_sizes_out_of_reach_are_refused(view):
    (step,) = Recipe.parse("slice(plain=true)").steps
    for asked in ("size=1", "size=1000000"):
        with pytest.raises(PlanError, match=r"they range from .* in steps of 8 dimensions"):
            step.check(view, Budget.parse(asked))
    with pytest.raises(PlanError, match="no block may lose more"):
        step.check(view, Budget(amount=0.95))
    with pytest.raises(PlanError, match="choose a smaller rounding"):
        plain_at(view.shape, 0.5, 32)


def test_the_price_of_a_plain_model_is_known_before(view):
    shape = view.shape
    after = SlicingSchedule.in_one_basis(shape, 24).shape_after(shape)
    model = slice_model(view.model, SlicingSchedule.in_one_basis(shape, 24), view.windows).model
    assert after == read_shape(model)
    assert after.parameters == count_parameters(model)
    assert after.weight_bytes(4) == sum(each.nbytes for each in model.parameters())
    untied = shape.model_copy(update={"tied": False})
    # All but the parameters inside of heads goes in proportion.
    assert after.parameters == untied.parameters * 24 // 32
    assert after.flops_per_token == shape.flops_per_token * 24 // 32


def test_steps_are_multiples_of_what_the_family_wants():
    assert width_step(tiny_model("llama")) == 4
    assert width_step(tiny_model("mistral")) == 1
    (step,) = Recipe.parse("slice(plain=true, rounding=6)").steps
    view = view_of(tiny_model("llama"))
    assert step.decide(view, Budget(amount=0.2), Made(view.model)).widths[0] == 24  # type: ignore[union-attr]


def test_blocks_may_go_first():
    model = tiny_model("llama", num_hidden_layers=6)
    view = view_of(model)
    recipe = Recipe.parse("last-blocks(share=0.5) | slice(plain=true, rounding=1, repair=writers)")
    made, _ = make_smaller(recipe, Budget.parse("parameters=0.5"), view)
    assert made.layout is not None
    assert made.sliced is not None
    assert type(made.model) is type(model)
    assert len(blocks(made.model)) == len(made.layout.groups) < 6
    assert made.model.config.hidden_size < 32
    after = made.sliced.schedule.shape_after(made.layout.shape_after(view.shape))
    assert count_parameters(made.model) == after.parameters


@pytest.mark.parametrize("name", BASES)
def test_any_rule_may_choose_the_one_basis(name, view):
    recipe = Recipe.parse(f"slice(plain=true, basis={name})")
    made, _ = make_smaller(recipe, Budget(amount=0.25), view)
    assert made.sliced is not None
    assert made.sliced.basis == name
    assert made.model(view.windows[:2]).logits.isfinite().all()


def test_a_plain_schedule_has_one_width_and_two_tables():
    with pytest.raises(PlanError, match="one width everywhere"):
        SlicingSchedule(hidden_size=32, widths=(24, 16, 24), embedding="untied", plain=True)
    with pytest.raises(PlanError, match="choose the untied form"):
        SlicingSchedule(hidden_size=32, widths=(24, 24), embedding="shared", plain=True)
    schedule = SlicingSchedule(hidden_size=32, widths=(24,) * 4, embedding="untied", span=3, plain=True)
    assert not any(schedule.turns(block, last) for block in range(3) for last in (False, True))
    assert schedule.mean_slice == pytest.approx(0.25)
    assert SlicingSchedule.from_json(schedule.to_json(), "it") == schedule

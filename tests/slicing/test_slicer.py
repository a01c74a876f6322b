"""The invariants of slicing, on a tiny random model of every supported family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.anatomy import anatomy_of, decoder, norm_gain
from analysis.errors import ModelError, OutOfMemoryError, PlanError, StorageError, UnsupportedError
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from slicing.assembly import blank, fill_in_bases
from slicing.guard import GUARD_TOLERANCE, refuse_unless_invariant
from slicing.rotation import random_bases
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import load_sliced, open_model, save_sliced

MIXED = (24, 16, 29, 32)


def schedule_for(
    shape: ModelShape, widths: tuple[int, ...] = MIXED, form: str | None = None
) -> SlicingSchedule:
    embedding = form or ("shared" if shape.tied else "untied")
    return SlicingSchedule(hidden_size=shape.hidden_size, widths=widths, embedding=embedding)


def forms(shape: ModelShape) -> list[str]:
    return ["shared", "untied"] if shape.tied else ["untied"]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def rotated(model, form: str):
    """The model with a random rotation at every site and nothing cut."""
    shape = read_shape(model)
    rotations = random_bases(shape.hidden_size, torch.Generator().manual_seed(3))
    last = len(shape.sublayers)
    schedule = schedule_for(shape, (32,) * 4, form)
    sliced = blank(model, schedule)
    for _ in fill_in_bases(
        model, sliced, schedule, lambda site, _: (torch.eye(32) if site == last else next(rotations)).double()
    ):
        pass
    return sliced


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_fused_and_rotated_logits_are_the_dense_ones(family, windows, dtype, tolerance):
    model = tiny_model(family, dtype)
    expected = model(windows).logits
    shape = read_shape(model)
    for form in forms(shape):
        fused = slice_model(model, schedule_for(shape, (32,) * 4, form), windows).model
        assert relative_error(fused(windows).logits, expected) < tolerance
        assert relative_error(rotated(model, form)(windows).logits, expected) < tolerance


def test_dense_model_is_left_alone(family, windows):
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(windows).logits
    slice_model(model, schedule_for(read_shape(model)), windows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(windows).logits, logits)


def test_predicted_sizes_are_those_of_the_built_model(family, windows):
    model = tiny_model(family)
    shape = read_shape(model)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.flops_per_token * windows.numel() == _linear_flops(model, windows)
    for form in forms(shape):
        schedule = schedule_for(shape, form=form)
        sliced = slice_model(model, schedule, windows).model
        assert schedule.shape_after(shape).parameters == sum(p.numel() for p in sliced.parameters())
        assert schedule.shape_after(shape).flops_per_token * windows.numel() == _linear_flops(sliced, windows)


def _linear_flops(model, windows: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(windows)
    by_operation = counter.get_flop_counts()["Global"]
    return sum(flops for op, flops in by_operation.items() if str(op) in ("aten.mm", "aten.addmm"))


def test_saved_and_loaded_model_has_equal_logits(family, windows, tmp_path):
    model = tiny_model(family)
    shape = read_shape(model)
    for form in forms(shape):
        sliced = slice_model(model, schedule_for(shape, form=form), windows)
        folder = tmp_path / form
        save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="test")
        loaded, _ = load_sliced(ModelSource.parse(str(folder)))
        assert torch.equal(loaded.model(windows).logits, sliced.model(windows).logits)
        assert loaded.schedule == sliced.schedule
        table = loaded.model.get_input_embeddings().weight
        assert (loaded.model.get_output_embeddings().weight is table) == (form == "shared")


def test_tying_weights_again_does_not_break_a_sliced_model(windows):
    model = tiny_model("llama")
    for form in ("shared", "untied"):
        sliced = slice_model(model, schedule_for(read_shape(model), form=form), windows).model
        expected = sliced(windows).logits
        sliced.tie_weights()  # evaluation harnesses call this
        assert torch.equal(sliced(windows).logits, expected)


def test_padding_does_not_change_results(family, windows):
    model = tiny_model(family)
    sliced = slice_model(model, schedule_for(read_shape(model)), windows).model
    padded = torch.cat([torch.zeros(6, 5, dtype=torch.long), windows], dim=1)
    mask = (torch.arange(21) >= 5).long().expand(6, -1)
    positions = (torch.arange(21) - 5).clamp_min(0).expand(6, -1)
    found = sliced(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
    assert relative_error(found, sliced(windows).logits) < 1e-5


def test_generation_with_cache_is_that_without(family, windows):
    sliced = slice_model(tiny_model(family), schedule_for(read_shape(tiny_model(family))), windows).model
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    prompt = windows[:2]
    mask = torch.ones_like(prompt)
    cached = sliced.generate(prompt, attention_mask=mask, use_cache=True, **options)
    plain = sliced.generate(prompt, attention_mask=mask, use_cache=False, **options)
    assert cached.shape[1] > prompt.shape[1]
    assert torch.equal(cached, plain)


def test_calibration_in_batches_is_calibration_in_one(windows, monkeypatch):
    model = tiny_model("llama", torch.float64)
    schedule = schedule_for(read_shape(model))
    together = slice_model(model, schedule, windows).model(windows).logits
    monkeypatch.setattr("analysis.stream.batches_of", lambda tokens, device: iter(tokens.split(4)))
    apart = slice_model(model, schedule, windows).model(windows).logits
    assert relative_error(apart, together) < 1e-9


def test_sliced_embedding_holds_the_energy_it_says(windows):
    model = tiny_model("llama", torch.float64)
    sliced = slice_model(model, schedule_for(read_shape(model)), windows)
    rows = model.model.embed_tokens(windows).reshape(-1, 32)
    kept = sliced.model.get_input_embeddings()(windows).reshape(-1, 24)
    assert sliced.discarded[0] == pytest.approx(
        1 - float(kept.square().sum() / rows.square().sum()), rel=1e-6
    )
    assert len(sliced.discarded) == 7
    assert sliced.discarded[-1] == 0.0


# The oracle: the published procedure written as it is told, with everything kept.


def naive_slicing(model, windows: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Logits of the untied sliced model by the published procedure, in plain fp64 matrix algebra.

    Three passes per block (readers cut: attention; writer cut: the middle again; MLP), all states kept,
    a rotated head, and no module of ours.
    """
    hidden = model.config.hidden_size
    epsilon = model.config.rms_norm_eps
    batch, length = windows.shape

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().sum(-1, keepdim=True) / hidden + epsilon).sqrt()

    def pca(x: Tensor) -> Tensor:
        flat = x.reshape(-1, hidden)
        second_moment = sum(torch.outer(row, row) for row in flat)
        _, vectors = torch.linalg.eigh(second_moment)
        return vectors.flip(-1)

    def attention(block, x: Tensor, q: Tensor) -> Tensor:
        core = block.self_attn
        gain = block.input_layernorm.weight
        heads, groups, size = 4, 2, core.head_dim
        read = unit(x) @ q.T[: x.shape[-1]] * gain if x.shape[-1] == hidden else unit(x) @ (q.T * gain)
        query, key, value = (
            (read @ linear.weight.T).view(batch, length, -1, size).transpose(1, 2)
            for linear in (core.q_proj, core.k_proj, core.v_proj)
        )
        cos, sin = model.model.rotary_emb(x, torch.arange(length)[None])

        def turn(z: Tensor) -> Tensor:
            left, right = z.chunk(2, -1)
            return z * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]

        query, key = turn(query), turn(key)
        key, value = (z.repeat_interleave(heads // groups, dim=1) for z in (key, value))
        scores = query @ key.transpose(-1, -2) / size**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        return (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)

    def mlp(block, x: Tensor, q: Tensor) -> Tensor:
        read = unit(x) @ (q.T * block.post_attention_layernorm.weight)
        return nn.functional.silu(read @ block.mlp.gate_proj.weight.T) * (read @ block.mlp.up_proj.weight.T)

    embedded = model.model.embed_tokens(windows)
    q = pca(embedded)[:, : widths[0]]
    x = embedded @ q
    for index, block in enumerate(model.model.layers):
        # pass 1: cut readers, whole writer, shortcut back to the full basis; look at the middle
        middle = x @ q.T + attention(block, x, q) @ block.self_attn.o_proj.weight.T
        p = pca(middle)[:, : widths[index]]
        # pass 2: the same with the writer cut
        x_mid = x @ (q.T @ p) + attention(block, x, q) @ (p.T @ block.self_attn.o_proj.weight).T
        # pass 3: cut MLP readers, whole writer; look at the output
        out = x_mid @ p.T + mlp(block, x_mid, p) @ block.mlp.down_proj.weight.T
        q_next = pca(out)[:, : widths[index + 1]]
        x = x_mid @ (p.T @ q_next) + mlp(block, x_mid, p) @ (q_next.T @ block.mlp.down_proj.weight).T
        q = q_next
    head = (model.lm_head.weight * model.model.norm.weight) @ q
    return unit(x) @ head.T


@pytest.mark.parametrize("widths", [(24, 24, 24, 32), MIXED])
@pytest.mark.parametrize("form", ["shared", "untied"])
def test_fast_path_gives_what_the_published_procedure_gives(windows, widths, form):
    model = tiny_model("llama", torch.float64)
    schedule = schedule_for(read_shape(model), widths, form)
    found = slice_model(model, schedule, windows)
    expected = naive_slicing(model, windows, widths)
    assert relative_error(found.model(windows).logits, expected) < 1e-8
    in_features = [
        block.sublayers[0].cores[0].q_proj.in_features for block in found.model.get_decoder().layers
    ]
    assert tuple(in_features) == widths[:-1]


# Refusals


def test_unsupported_family_is_refused_with_the_list_of_those_that_work(windows):
    model = tiny_model("olmo2")
    with pytest.raises(UnsupportedError, match=r"'olmo2' cannot be sliced"):
        slice_model(model, SlicingSchedule(hidden_size=32, widths=MIXED, embedding="untied"), windows)


def test_guard_refuses_a_model_whose_stream_cannot_be_rotated(windows):
    model = tiny_model("llama")
    block = model.model.layers[1]
    block.mlp.register_forward_hook(lambda module, args, output: output.relu())  # a nonlinear writer
    with pytest.raises(UnsupportedError, match="changes its logits by"):
        slice_model(model, schedule_for(read_shape(model)), windows)


def test_guard_passes_each_family_with_room_to_spare(family, monkeypatch):
    monkeypatch.setitem(GUARD_TOLERANCE, "float32", 1e-4)
    refuse_unless_invariant(tiny_model(family))


def test_schedule_of_another_model_is_refused(windows):
    model = tiny_model("llama")
    with pytest.raises(PlanError, match="4 blocks of width 32, but the model has 3"):
        slice_model(model, SlicingSchedule(hidden_size=32, widths=(*MIXED, 32), embedding="shared"), windows)
    untied = tiny_model("phi3")
    with pytest.raises(PlanError, match="choose the untied form"):
        slice_model(untied, SlicingSchedule(hidden_size=32, widths=MIXED, embedding="shared"), windows)


def test_not_finite_weights_are_refused(windows):
    model = tiny_model("llama")
    schedule = schedule_for(read_shape(model))
    refuse_unless_invariant(model)
    model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        slice_model(model, schedule, windows)


@pytest.mark.parametrize(
    "place",
    ["slicing.slicer.refuse_unless_invariant", "slicing.slicer.blank", "slicing.guard.entering_states"],
)
def test_memory_that_runs_out_anywhere_is_one_sentence(windows, monkeypatch, place):
    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = tiny_model("llama")
    monkeypatch.setattr(place, fail)
    with pytest.raises(OutOfMemoryError, match="ran out while slicing"):
        slice_model(model, schedule_for(read_shape(model)), windows)


def test_saving_over_a_folder_or_loading_a_broken_one_is_refused(windows, tmp_path):
    model = tiny_model("llama")
    sliced = slice_model(model, schedule_for(read_shape(model)), windows)
    folder: Path = tmp_path / "sliced"
    save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="test")
    with pytest.raises(StorageError, match="exists already"):
        save_sliced(sliced, byte_tokenizer(), folder, made_from="tiny", calibration="test")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        open_model(ModelSource.parse(str(folder)))
    (folder / "slicescope.json").write_text('{"format": 1}')
    with pytest.raises(StorageError, match="is not a readable Manifest"):
        open_model(ModelSource.parse(str(folder)))


def test_head_gain_is_folded_only_in_the_untied_form(windows):
    model = tiny_model("gemma")
    gain = norm_gain(decoder(model).norm, anatomy_of(model.config), model.lm_head.weight)
    untied = slice_model(model, schedule_for(read_shape(model), form="untied"), windows).model
    assert torch.allclose(untied.get_output_embeddings().weight, model.lm_head.weight * gain)
    shared = slice_model(model, schedule_for(read_shape(model), form="shared"), windows).model
    assert shared.get_output_embeddings().weight is model.model.embed_tokens.weight


@pytest.mark.demo
def test_guard_passes_the_demo_model_in_the_dtype_that_a_gpu_gets(monkeypatch):
    monkeypatch.setitem(GUARD_TOLERANCE, "bfloat16", 0.05)  # special tokens alone were off by 0.4
    refuse_unless_invariant(open_model(ModelSource(kind="demo", dtype="bfloat16")).model)

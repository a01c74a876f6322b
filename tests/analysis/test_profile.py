"""The profile against brute force, and the traps that published code falls into."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import all_states, tiny_model
from every_family import tiny
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from analysis.anatomy import anatomy_of, blocks, core_of, decoder, weights_named
from analysis.errors import ModelError, PlanError, TextError
from analysis.hooks import entering_states, watch_blocks
from analysis.profile import LayerProfile, profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import open_model
from slicing.studies.store import bundled_run


def profile(model: Any, windows: Tensor, **options: Any) -> LayerProfile:
    return profile_blocks(model, windows, model_label="tiny", text_label="random", **options)


def brute_force_cosine(model: Any, windows: Tensor) -> np.ndarray:
    """(blocks, windows, tokens), each a dot product over two norms."""
    states = all_states(model, windows)
    result = np.zeros((len(states) - 1, *windows.shape))
    for block in range(len(states) - 1):
        for n in range(windows.shape[0]):
            for t in range(windows.shape[1]):
                a, b = states[block][n, t], states[block + 1][n, t]
                result[block, n, t] = float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())
    return result


def test_scores_are_those_of_brute_force(family, windows):
    model = tiny_model(family)
    found = profile(model, windows)
    cosine = brute_force_cosine(model, windows)
    for first_token, tokens in ((False, cosine[:, :, 1:]), (True, cosine)):
        mean = tokens.mean(axis=(1, 2))
        np.testing.assert_allclose(found.values("block-influence", first_token), 1 - mean, atol=1e-6)
        expected = (mean - mean.min()) / np.ptp(mean)
        np.testing.assert_allclose(found.values("lr", first_token), expected, atol=1e-6 / np.ptp(mean))
    angular = np.arccos(cosine[:, :, -1]).mean(axis=1) / np.pi
    np.testing.assert_allclose(found.values("angular"), angular, atol=1e-6)
    spread = (1 - cosine[:, :, 1:].mean(axis=2)).std(axis=1, ddof=1)
    np.testing.assert_allclose(found.spread("block-influence"), spread, atol=1e-6)


def test_last_block_is_measured_before_the_final_norm(windows):
    model = tiny_model("llama")
    before = profile(model, windows).values("block-influence")
    model.model.norm.weight.copy_(torch.randn(32) * 10)
    np.testing.assert_array_equal(profile(model, windows).values("block-influence"), before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_the_released_score_is_that_of_the_hidden_states_of_transformers(name, windows):
    model = tiny_model(name)
    found = profile(model, windows)
    with torch.no_grad():
        states = decoder(model)(windows, output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == 4
    cosine = torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in pairwise(states)])
    for first_token, tokens in ((False, cosine[:, :, 1:]), (True, cosine)):
        mean = tokens.mean(dim=(1, 2)).double().numpy()
        np.testing.assert_allclose(
            found.measured("lr-published", first_token).mean(axis=0), mean, rtol=0, atol=1e-6
        )
        expected = (mean - mean.min()) / np.ptp(mean)
        tolerance = 2e-6 / np.ptp(mean)
        np.testing.assert_allclose(found.values("lr-published", first_token), expected, atol=tolerance)
    true, released = (found.measured(score) for score in ("lr", "lr-published"))
    np.testing.assert_array_equal(released[:, :-1], true[:, :-1])
    assert np.abs(released[:, -1] - true[:, -1]).min() > 1e-3  # the final norm turns the stream


def test_the_released_score_follows_the_final_norm_and_the_true_one_does_not(windows):
    model = tiny_model("llama")
    before = profile(model, windows)
    model.model.norm.weight.copy_(torch.randn(32, generator=torch.Generator().manual_seed(1)) * 10)
    after = profile(model, windows)
    np.testing.assert_array_equal(after.measured("lr"), before.measured("lr"))
    assert not np.allclose(after.measured("lr-published")[:, -1], before.measured("lr-published")[:, -1])


def test_a_decoder_that_narrows_its_output_has_no_released_score(windows):
    found = profile(tiny_model("opt", word_embed_proj_dim=16), windows)
    assert "lr" in found.scores()
    assert "lr-published" not in found.scores()
    with pytest.raises(PlanError, match="holds no LR score as released"):
        found.redundancy("lr-published")


def test_a_final_norm_that_is_not_finite_is_told(windows):
    model = tiny_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: output * float("nan"))
    with pytest.raises(ModelError, match="What leaves the final norm is not finite"):
        profile(model, windows)


def test_a_profile_of_an_earlier_version_opens_without_the_released_score():
    found = bundled_run().result.profile
    assert "lr-published" not in found.scores()
    assert found.held("lr-published") == "lr"
    assert "lr-published" not in found.to_frame()
    with pytest.raises(PlanError, match="profile the model again"):
        found.values("lr-published")


@pytest.mark.demo
def test_the_released_score_spares_the_first_and_the_last_block_of_the_demo_model():
    opened = open_model(ModelSource(kind="demo", dtype="float32"))
    text = TextSource(kind="demo", split="calibration")
    found = profile(opened.model, token_windows(text, opened.tokenizer, 128, 2, 0))
    order = np.argsort(found.redundancy("lr-published"))
    assert set(order[:2].tolist()) == {0, 29}
    true = np.asarray(found.redundancy("lr"))
    assert np.argmin(true) == 0
    assert true[29] > 0.5  # the last block of the true stream is no exception of that kind
    assert 1.0 - found.measured("lr-published").mean(axis=0)[29] > 0.9
    assert 1.0 - found.measured("lr").mean(axis=0)[29] < 0.4


def test_identity_block_has_cosine_one_and_the_highest_score(family, windows):
    model = tiny_model(family)
    block = blocks(model)[1]
    for branches in anatomy_of(model.config).sublayers:
        for branch in branches:
            core = core_of(block, branch)
            for name, weight in weights_named(core, branch.writers):
                weight.zero_()
                bias = dict(core.named_parameters()).get(name.removesuffix("weight") + "bias")
                if bias is not None:
                    bias.zero_()
    found = profile(model, windows)
    assert found.measured("lr").mean(axis=0)[1] == pytest.approx(1.0, abs=1e-6)
    assert found.values("lr")[1] == 1.0
    assert found.values("angular")[1] == pytest.approx(0.0, abs=1e-3)  # arccos is steep there
    assert np.argmax(found.redundancy("block-influence")) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_beyond_sixteen_bits_do_no_harm(dtype, windows):
    model = tiny_model("llama", dtype)
    model.model.embed_tokens.weight.mul_(2000 / model.model.embed_tokens.weight.float().norm(dim=1).mean())
    states = all_states(model, windows)
    assert states[1].norm(dim=-1).min() > 256
    if dtype is torch.float16:  # the published code multiplies before it divides, and overflows
        assert (states[0].half() @ states[1].half().transpose(1, 2)).isinf().any()
    exact = torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in zip(states, states[1:])])  # noqa: B905, RUF007
    found = profile(model, windows).measured("lr", first_token=True)
    np.testing.assert_allclose(found.T, exact.mean(dim=-1), atol=1e-6)


def test_batches_do_not_matter(windows, monkeypatch):
    model = tiny_model("llama")
    together = profile(model, windows)
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: windows.shape[1])
    apart = profile(model, windows)
    np.testing.assert_allclose(apart.values("block-influence"), together.values("block-influence"), atol=1e-6)
    turned = profile(model, windows.flip(0))
    np.testing.assert_allclose(turned.values("lr"), together.values("lr"), atol=1e-5)


def test_one_block_and_equal_scores_are_no_division_by_zero(windows):
    found = profile(tiny_model("llama", num_hidden_layers=1), windows)
    assert found.values("lr").tolist() == [1.0]
    assert profile(tiny_model("llama"), windows[:1]).spread("lr").tolist() == [0.0, 0.0, 0.0]


def test_weights_that_are_not_finite_are_refused(windows):
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"The weight 'model\.layers\.1\.mlp\.down_proj\.weight' holds NaN"):
        profile(model, windows)


def test_first_token_alone_that_is_not_finite_is_refused(windows):
    model = tiny_model("llama")
    first = torch.zeros(windows.shape[1], 1)
    first[0] = float("inf")
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output + first)
    model.model.layers[0].self_attn.register_forward_hook(
        lambda module, args, output: (output[0].nan_to_num(), *output[1:])
    )
    with pytest.raises(ModelError, match="not finite from block 0 on"):
        profile(model, windows)


def test_windows_beyond_the_context_are_refused():
    with pytest.raises(TextError, match="context ends at 128"):
        profile(tiny_model("llama"), torch.ones(1, 129, dtype=torch.long))


def test_no_hook_stays_behind(windows):
    model = tiny_model("llama")

    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    profile(model, windows)
    with pytest.raises(KeyboardInterrupt):
        profile(model, windows, progress=stop)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_stand_in_blocks_are_taken_out_again_after_an_error(windows):
    model = tiny_model("llama")
    real = blocks(model)
    with pytest.raises(TypeError):
        entering_states(model, "no tokens")  # type: ignore[arg-type]
    assert decoder(model).layers is real


def test_watching_sees_every_block_once_in_order(windows):
    model, seen = tiny_model("llama"), []
    with watch_blocks(model, lambda index, entering, leaving: seen.append(index)):
        model(windows)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("model_type", ["gpt2", "olmo2", "gemma2", "gpt_neox", "opt", "mixtral"])
def test_families_that_cannot_be_sliced_can_be_profiled(model_type, windows):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "intermediate_size": 48,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    }
    config = AutoConfig.for_model(model_type)
    known = {name: value for name, value in sizes.items() if hasattr(config, name)}
    config = AutoConfig.for_model(model_type, vocab_size=300, **known)
    for name, token in (("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", 2)):
        setattr(config, name, token)
    found = profile(AutoModelForCausalLM.from_config(config).eval(), windows)
    assert found.blocks == 3
    assert np.isfinite(found.values("lr")).all()


def test_sliced_model_is_refused(windows):
    model = tiny_model("llama")
    read_shape(model)
    schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 24, 32), embedding="shared")
    with pytest.raises(ModelError, match="profile the dense model"):
        profile(slice_model(model, schedule, windows).model, windows)


def test_profile_goes_to_json_and_to_a_table(windows):
    found = profile(tiny_model("llama"), windows)
    assert LayerProfile.from_json(found.to_json(), "test") == found
    frame = found.to_frame()
    assert frame["module"].tolist() == ["model.layers.0", "model.layers.1", "model.layers.2"]
    np.testing.assert_allclose(frame["block-influence"], 1 - frame["cosine"])
    assert frame["lr"].min() == 0.0
    assert frame["lr"].max() == 1.0


def test_streams_that_are_not_one_vector_per_token_are_refused(windows):
    with pytest.raises(ModelError, match=r"has the shape \(6, 16, 4, 32\) rather than one vector per token"):
        profile(tiny("deepseek_v4"), windows)


def test_block_that_does_not_run_is_told(windows):
    model = tiny_model("llama")
    layers = model.model.layers
    real = type(layers).__getitem__
    idle = layers[1]
    model.model.layers = torch.nn.ModuleList([layers[0], idle, layers[2]])

    class Skipping(torch.nn.ModuleList):
        def __getitem__(self, index):
            found = real(self, index)
            return [found[0], found[2]] if isinstance(index, slice) else found

    model.model.layers.__class__ = Skipping
    with pytest.raises(ModelError, match="Block 1 of this llama model does not run on text alone"):
        profile(model, windows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dead", "named"), [((1,), "Block 1 changes"), ((0, 2), "Blocks 0, 2 change")])
def test_block_whose_weights_are_zero_is_warned_of_by_its_number(windows, dead, named, dtype):
    model = tiny_model("llama", dtype=dtype)
    assert profile(model, windows).warnings() == ()
    for number in dead:
        for parameter in model.model.layers[number].parameters():
            parameter.zero_()
    (sentence,) = profile(model, windows).warnings()
    assert sentence.startswith(f"{named} next to nothing of the stream")


@pytest.mark.parametrize("zero", ["every weight", "the writers"])
def test_model_whose_blocks_do_nothing_is_refused(windows, zero):
    model = tiny_model("llama")
    for name, parameter in model.named_parameters():
        if zero == "every weight" or name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
    with pytest.raises(ModelError, match="No block of this model changes the stream"):
        profile_blocks(model, windows, model_label="tiny", text_label="text")


def test_model_that_gives_no_numbers_is_refused(windows):
    model = tiny_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * float("nan"))
    with pytest.raises(ModelError, match="The stream is not finite from block 1 on"):
        profile_blocks(model, windows, model_label="tiny", text_label="text")

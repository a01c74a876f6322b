"""The details of a profile against states that were kept whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import all_states, byte_tokenizer, tiny_model
from every_family import tiny
from torch import Tensor

from analysis import details as details_module
from analysis.anatomy import blocks
from analysis.details import LIKENESSES, Details, DetailsCollector
from analysis.errors import StorageError
from analysis.profile import profile_blocks
from analysis.scores import Passage


def details_of(model: Any, windows: Tensor) -> Details:
    collector = DetailsCollector(model, windows)
    profile_blocks(model, windows, model_label="tiny", text_label="random", details=collector)
    return collector.details(byte_tokenizer())


def cosines(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1).numpy()


def test_every_token_every_norm_and_every_pair_of_depths(family, windows):
    model = tiny_model(family)
    found, states = details_of(model, windows), all_states(model, windows)
    for block, (entering, leaving) in enumerate(pairwise(states)):
        expected = 1 - cosines(entering, leaving)
        np.testing.assert_allclose(found.change[:, :, block], expected, atol=2e-3)
        growth = (leaving.norm(dim=-1) / entering.norm(dim=-1))[:, 1:].mean()
        assert found.growth[block] == pytest.approx(float(growth), rel=1e-4)
    # 6 windows of 15 tokens are fewer than those that are paired, so that none is left out.
    for i, one in enumerate(states):
        for j, other in enumerate(states):
            expected = cosines(one[:, 1:], other[:, 1:]).mean()
            assert found.similarity[i, j] == pytest.approx(float(expected), abs=1e-5)
    assert (found.tokens == windows.numpy()).all()
    assert set(found.pieces) == set(windows.unique().tolist())


def test_the_angle_is_that_of_the_last_tokens(family, windows):
    model = tiny_model(family)
    found, states = details_of(model, windows).angular, all_states(model, windows)
    assert found is not None
    for i, one in enumerate(states):
        for j, other in enumerate(states):
            expected = np.arccos(np.clip(cosines(one[:, -1], other[:, -1]), -1, 1)).mean() / np.pi
            assert found[i, j] == pytest.approx(expected, abs=2e-4 if i == j else 1e-5)
    assert (np.diagonal(found) == 0.0).all()
    assert ((found >= 0.0) & (found <= 1.0)).all()


def test_the_angle_of_neighbours_is_the_score(windows):
    model = tiny_model("llama")
    collector = DetailsCollector(model, windows)
    profile = profile_blocks(model, windows, model_label="tiny", text_label="random", details=collector)
    angular = collector.details().maps()["angular"]
    np.testing.assert_allclose(np.diagonal(angular, 1), profile.values("angular"), atol=1e-6)


def test_a_stream_that_turns_around_is_clamped(windows):
    model = tiny_model("llama")
    collector = DetailsCollector(model, windows)
    states = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    for block in range(3):
        collector.look(slice(0, 2), block, Passage.of((-1) ** block * states, (-1) ** (block + 1) * states))
    angular = collector.details().maps()["angular"]
    expected = [[(i + j) % 2 for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(angular, expected, atol=2e-4)


def linear_cka(one: Tensor, other: Tensor) -> float:
    """By its definition, on the features (Kornblith et al. 2019, equation 3)."""
    one, other = (each - each.mean(0) for each in (one, other))
    return float((one.T @ other).norm() ** 2 / ((one.T @ one).norm() * (other.T @ other).norm()))


@pytest.mark.parametrize("split", [6, 4])
def test_cka_is_that_of_the_states_weighted_by_tokens(family, split, windows, monkeypatch):
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: split * windows.shape[1])
    model = tiny_model(family)
    found = details_of(model, windows).cka
    assert found is not None
    states = [
        [part[:, 1:].flatten(0, 1) for part in each.split(split)] for each in all_states(model, windows)
    ]
    weights = [len(part) for part in states[0]]
    for i, one in enumerate(states):
        for j, other in enumerate(states):
            each = [linear_cka(a, b) for a, b in zip(one, other, strict=True)]
            assert found[i, j] == pytest.approx(np.average(each, weights=weights), abs=1e-4)
    np.testing.assert_allclose(np.diagonal(found), 1.0, atol=1e-5)


def test_heads_and_mlp_add_up_to_the_change(family, windows):
    model = tiny_model(family)
    found, states = details_of(model, windows), all_states(model, windows)
    assert found.split is not None
    for block, (entering, leaving) in enumerate(pairwise(states)):
        entering, leaving = entering[:, 1:], leaving[:, 1:]
        whole = ((leaving - entering).norm(dim=-1) / entering.norm(dim=-1)).mean()
        assert found.split[block].sum() == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "heads", "mlp"),
    [
        ("llama", "self_attn.o_proj", "mlp.down_proj"),
        ("granite", "self_attn.o_proj", "mlp.down_proj"),
        ("gpt_neox", "attention.dense", "mlp.dense_4h_to_h"),
        ("falcon", "self_attention.dense", "mlp.dense_4h_to_h"),
        ("gptj", "attn.out_proj", "mlp.fc_out"),
    ],
)
def test_what_writes_nothing_has_no_part(name, heads, mlp, windows):
    for silent, column in ((heads, 0), (mlp, 1)):
        model = tiny_model(name)
        for block in blocks(model):
            writer: Any = block.get_submodule(silent)
            for parameter in writer.parameters():
                parameter.zero_()
        split = details_of(model, windows).split
        assert split is not None
        np.testing.assert_allclose(split[:, column], 0.0, atol=1e-5)
        assert (split[:, 1 - column] > 1e-3).all()


def test_a_family_whose_parts_are_unknown_has_no_split_but_all_else():
    model = tiny("gemma3_text")
    windows = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    found = details_of(model, windows)
    assert found.split is None
    assert found.similarity.shape == (len(blocks(model)) + 1,) * 2
    assert np.isfinite(found.growth).all()


def test_only_the_first_windows_are_kept_token_by_token(windows, monkeypatch):
    monkeypatch.setattr(details_module, "TOKENS_KEPT", 40)  # two windows of 16
    model = tiny_model("llama")
    found = details_of(model, windows)
    assert found.tokens.shape == (2, 16)
    whole = [
        1 - cosines(a, b) for a, b in zip(*(all_states(model, windows)[i:] for i in (0, 1)), strict=False)
    ]
    np.testing.assert_allclose(found.change, np.stack(whole, axis=-1)[:2], atol=2e-3)
    monkeypatch.setattr(details_module, "TOKENS_KEPT", 1)
    assert details_of(model, windows).tokens.shape == (1, 16)  # one window at least


def test_depths_are_paired_on_a_sample_of_each_batch(windows, monkeypatch):
    monkeypatch.setattr(details_module, "TOKENS_PAIRED", 30)  # every third of 90 tokens
    model = tiny_model("llama")
    states = [each[:, 1:].flatten(0, 1)[::3] for each in all_states(model, windows)]
    found = details_of(model, windows).maps()
    assert found["similarity"][1, 3] == pytest.approx(float(cosines(states[1], states[3]).mean()), abs=1e-5)
    assert found["cka"][1, 3] == pytest.approx(linear_cka(states[1], states[3]), abs=1e-4)


def test_states_are_held_only_until_the_batch_is_through(windows):
    model = tiny_model("llama")
    collector = DetailsCollector(model, windows)
    states = torch.randn(6, 16, 32)
    collector.look(slice(0, 6), 0, Passage.of(states, states))
    held = [part for each in collector._depths[0] for part in each]
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in held)  # no views of the batch
    for block in (1, 2):
        collector.look(slice(0, 6), block, Passage.of(states, states))
    assert collector._depths == {}


def test_what_is_saved_is_loaded_again(windows, tmp_path: Path):
    for model in (tiny_model("llama"), tiny("gemma3_text")):
        found = details_of(model, windows % 60)
        for saved in (found, found._replace(lens=np.ones((6, 3), dtype=np.float32))):
            path = tmp_path / "profile.safetensors"
            saved.save(path)
            loaded = Details.load(path)
            assert loaded.pieces == saved.pieces
            assert (loaded.split is None) == (saved.split is None)
            assert (loaded.lens is None) == (saved.lens is None)
            for name in ("tokens", "change", "growth", "similarity", "angular", "cka", "lens"):
                np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))


def test_a_file_of_before_is_loaded_without_what_was_not_measured_then(windows, tmp_path: Path):
    now = details_of(tiny_model("llama"), windows)
    assert list(now.maps()) == list(LIKENESSES)
    before = now._replace(angular=None, cka=None, lens=None)
    before.save(tmp_path / "profile.safetensors")
    loaded = Details.load(tmp_path / "profile.safetensors")
    assert (loaded.angular, loaded.cka, loaded.lens) == (None, None, None)
    assert list(loaded.maps()) == ["similarity"]


@pytest.mark.parametrize("content", [None, b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_missing_or_damaged_file_is_one_sentence(content, tmp_path: Path):
    path = tmp_path / "profile.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="profile the model again"):
        Details.load(path)


def test_watching_leaves_no_hook_behind(windows):
    model = tiny_model("llama")
    collector = DetailsCollector(model, windows)
    with pytest.raises(ZeroDivisionError), collector.watching():
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

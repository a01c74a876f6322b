"""The cloud of token states against states that were kept whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import all_states, byte_tokenizer, tiny_model
from torch import Tensor

from analysis import cloud as cloud_module
from analysis.cloud import DRAWN, Cloud, evenly, kept_blocks
from analysis.details import Details, DetailsCollector
from analysis.errors import StorageError
from analysis.profile import profile_blocks


def details_of(model: Any, windows: Tensor) -> Details:
    collector = DetailsCollector(model, windows, cloud=True)
    profile_blocks(model, windows, model_label="tiny", text_label="random", details=collector)
    return collector.details(byte_tokenizer())


def cloud_of(model: Any, windows: Tensor) -> Cloud:
    found = details_of(model, windows).cloud
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_places_are_those_along_the_principal_directions(family: str, windows: Tensor) -> None:
    model = tiny_model(family)
    found, states = cloud_of(model, windows), all_states(model, windows)
    assert found.tokens.tolist() == windows[:, 1:].flatten().tolist()  # so few that all are kept
    for place, block in enumerate(found.blocks):
        flat = states[block][:, 1:].flatten(0, 1).double()
        if family == "gpt2":  # its norms take the mean off
            flat = flat - flat.mean(dim=-1, keepdim=True)
        energies, vectors = torch.linalg.eigh(flat.T @ flat)
        shares = energies.flip(0) / energies.sum()
        np.testing.assert_allclose(found.principal[place], shares, atol=1e-6)
        own = flat.square().sum(dim=0).sort(descending=True).values
        np.testing.assert_allclose(found.own[place], own / own.sum(), atol=1e-6)
        drawn = vectors.flip(1)[:, [*range(DRAWN), found.thin]]
        along = ((flat - flat.mean(dim=0)) @ drawn) / flat.square().sum(dim=1).mean().sqrt()
        np.testing.assert_allclose(np.abs(found.places[place]), along.abs(), atol=2e-3)
        width = int(0.75 * flat.shape[1])
        assert found.beyond(place, width) == pytest.approx(float(shares[width:].sum()), abs=1e-6)


def test_a_rotation_of_the_stream_changes_no_place(windows: Tensor) -> None:
    """The picture shows what slicing may turn at will: only ``own`` depends on the axes of the model."""
    model = tiny_model("llama")
    states = all_states(model, windows)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    found = []
    for rotation in (torch.eye(len(turn)), turn):
        collector = cloud_module.CloudCollector(model, windows)
        for block, each in enumerate(states[:-1]):
            with torch.inference_mode():
                collector.look(slice(0, len(windows)), block, each @ rotation.to(each.dtype))
        found.append(collector.cloud())
    plain, turned = found
    assert plain is not None and turned is not None
    np.testing.assert_allclose(plain.principal, turned.principal, atol=1e-5)
    np.testing.assert_allclose(plain.places, turned.places, atol=5e-3)
    assert np.abs(plain.own - turned.own).max() > 1e-3


def test_of_many_tokens_some_are_kept_the_same_at_every_block(
    windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_module, "TOKENS", 20)
    found = cloud_of(tiny_model("llama"), windows)
    assert 10 <= found.tokens.size <= 20
    assert found.places.shape == (found.blocks.size, found.tokens.size, DRAWN + 1)
    assert found.tokens.tolist() == windows[:, 1:].flatten()[::8].tolist()


def test_it_is_written_and_read_with_the_details_and_may_be_missing(tmp_path: Path, windows: Tensor) -> None:
    details = details_of(tiny_model("llama"), windows)
    details.save(tmp_path / "new")
    read = Details.load(tmp_path / "new")
    assert read.cloud is not None and details.cloud is not None
    for one, other in zip(read.cloud, details.cloud, strict=True):
        np.testing.assert_array_equal(one, other)
    assert read.fit(3)
    details._replace(cloud=None).save(tmp_path / "old")
    assert Details.load(tmp_path / "old").cloud is None
    assert Details.load(tmp_path / "old").fit(3)


def test_a_damaged_one_is_told(tmp_path: Path, windows: Tensor) -> None:
    details = details_of(tiny_model("llama"), windows)
    cloud = details.cloud
    assert cloud is not None
    broken = (
        cloud._replace(principal=cloud.principal[:, :-1]),
        cloud._replace(principal=cloud.principal[0]),
        cloud._replace(blocks=cloud.blocks + 9),
        cloud._replace(places=np.full_like(cloud.places, np.nan)),
        cloud._replace(tokens=cloud.tokens[:-1]),
    )
    assert not any(details._replace(cloud=each).fit(3) for each in broken)
    from safetensors.numpy import load_file, save_file

    details.save(tmp_path / "whole")
    arrays = load_file(tmp_path / "whole")
    del arrays["cloud.own"]
    save_file(arrays, tmp_path / "part", metadata={"pieces": "{}"})
    with pytest.raises(StorageError, match="cannot be read"):
        Details.load(tmp_path / "part")


def test_wide_streams_keep_few_blocks_or_none() -> None:
    assert [kept_blocks(width) for width in (32, 576, 1024, 2048, 4096, 8192)] == [32, 32, 8, 1, 1, 0]
    assert evenly(30, 5) == [0, 7, 14, 22, 29] and evenly(3, 5) == [0, 1, 2] and evenly(31, 1) == [15]
    assert evenly(30, 0) == []

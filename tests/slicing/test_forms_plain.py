"""The forms ``hf`` and ``mergekit``: what they write is the model, and what they cannot say is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM

from analysis.anatomy import blocks
from analysis.errors import PlanError, UnsupportedError
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.export import Dense, find_export
from slicing.inner.cut import UnitCut, as_narrow_model, cut_model
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model

WINDOWS = torch.randint(3, 256, (2, 12), generator=torch.Generator().manual_seed(1))


def model_of(family: str = "llama", **changes: Any) -> Any:
    return tiny_model(family, num_hidden_layers=6, **changes)


def without(model: Any, *removed: int) -> Any:
    return reduce_blocks(model, Layout.without(len(blocks(model)), removed), check=False)


def narrow(model: Any, widths: list[int | None]) -> Any:
    """The model with so many channels in its MLPs, and without those of ``None``."""
    made = reduce_blocks(model, Layout.whole(len(widths)), check=False)
    cut_model(made, [[(), width and [UnitCut("channels", np.arange(width))]] for width in widths])
    return as_narrow_model(made)


def sliced() -> Any:
    schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")
    return slice_model(tiny_model("llama"), schedule, WINDOWS).model


def bridged() -> Any:
    inner = tiny_model("llama")
    config = BridgedConfig(text_config=inner.config, blocks="model.layers", bridges=[1])
    return BridgedForCausalLM(config, inner=inner)


HF = {
    "dense": model_of,
    "removed": lambda: without(model_of("qwen2"), 2, 3),
    "alike inside": lambda: narrow(model_of("llama", tie_word_embeddings=False), [20] * 6),
    "alike inside, transposed": lambda: narrow(model_of("gpt2"), [20] * 6),
}


@pytest.mark.parametrize("name", HF)
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_an_hf_folder_is_the_model_without_code_of_ours(name, dtype, tmp_path):
    model, folder = HF[name](), tmp_path / "hf"
    expected = model(WINDOWS).logits
    find_export("hf").write(model, byte_tokenizer(), folder, made_from="tiny", dtype=dtype)
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config and not list(folder.glob("*.py"))
    assert config["dtype"] == config["torch_dtype"] == ("bfloat16" if dtype else "float32")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    within = 0.05 if dtype else 1e-5
    assert (again(WINDOWS).logits - expected).abs().max() < within * expected.abs().max()
    assert torch.equal(model(WINDOWS).logits, expected), "the model itself has changed"


REFUSED = {
    "widths": (lambda: narrow(model_of(), [20, 21, 22, 23, 24, 25]), "make the model with 'uniform=true'"),
    "no sub-layer": (lambda: narrow(model_of(), [20, None, 20, 20, 20, 20]), "whole sub-layers are gone"),
    "sliced": (sliced, "with 'slice(plain=true)', or open the folder as it is"),
    "bridged": (bridged, "choose another repair than 'linear'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_ordinary_checkpoint_says_is_refused_in_one_sentence(name, tmp_path):
    make, said = REFUSED[name]
    with pytest.raises(UnsupportedError) as told:
        find_export("hf").write(make(), byte_tokenizer(), tmp_path / "hf", made_from="tiny")
    assert said in str(told.value)
    assert str(told.value).count(". ") == 0 and str(told.value).endswith(".")
    assert not list(tmp_path.iterdir())


# mergekit


def merged(path: Path, dense: Any) -> Any:
    """What mergekit makes by its definition: blocks of the half-open ranges one behind the other."""
    said = yaml.safe_load(path.read_text())
    assert set(said) == {"slices", "merge_method", "dtype"}
    assert said["merge_method"] == "passthrough"
    places: list[int] = []
    for each in said["slices"]:
        (source,) = each["sources"]
        assert set(source) == {"model", "layer_range"}
        places.extend(range(*source["layer_range"]))
    kinds = {"dtype": getattr(torch, said["dtype"])}
    return without(dense, *(set(range(len(blocks(dense)))) - set(places))).to(**kinds), places


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("removed", [(), (0,), (2, 3), (1, 3, 5), (0, 1, 2, 3, 4)])
def test_a_mergekit_file_names_the_blocks_that_are_left(family, removed, tmp_path):
    dense, path = model_of(family), tmp_path / "kept.yaml"
    model = without(dense, *removed)
    known = Dense("owner/name@main", dense)
    find_export("mergekit").write(model, byte_tokenizer(), path, made_from="tiny\nit", dense=known)
    again, places = merged(path, dense)
    assert places == [place for place in range(6) if place not in removed]
    assert torch.equal(again(WINDOWS).logits, model(WINDOWS).logits)
    assert yaml.safe_load(path.read_text())["slices"][0]["sources"][0]["model"] == "owner/name@main"


def test_blocks_of_which_the_last_stands_for_all_are_that_block(tmp_path):
    dense, path = model_of(), tmp_path / "kept.yaml"
    layout = Layout(blocks=6, groups=((0,), (1, 2, 3), (4,), (5,)))
    model = reduce_blocks(dense, layout, check=False)
    find_export("mergekit").write(
        model, byte_tokenizer(), path, made_from="it", dtype="bf16", dense=Dense("it", dense)
    )
    assert merged(path, dense)[1] == [0, 3, 4, 5]
    assert yaml.safe_load(path.read_text())["dtype"] == "bfloat16"


def changed(part: str) -> Any:
    model = without(model_of(), 2)
    with torch.no_grad():
        model.get_submodule(part).weight.add_(1e-3)
    return model


def mean() -> Any:
    layout = Layout(blocks=6, groups=((0,), (1, 2), (3,), (4,), (5,)), merge="mean")
    return reduce_blocks(model_of(), layout, check=False)


NOT_COPIED = {
    "repaired": (lambda: changed("model.layers.3.mlp.down_proj"), "block 3 of this model is none of"),
    "merged": (mean, "block 1 of this model is none of"),
    "head": (lambda: changed("model.norm"), "its embedding, its final norm or its head is not that of 'it'"),
    "family": (lambda: model_of("qwen2"), "this model is of the type 'qwen2', and 'it' of 'llama'"),
    "inside": (lambda: narrow(model_of(), [20] * 6), "this model is cut inside its blocks"),
    "sliced": (sliced, "the stream of this model is sliced"),
    "bridged": (bridged, "this model has matrices in the place of blocks"),
}


@pytest.mark.parametrize("name", NOT_COPIED)
def test_what_is_no_choice_of_blocks_is_refused_in_one_sentence(name, tmp_path):
    make, said = NOT_COPIED[name]
    with pytest.raises(UnsupportedError) as told:
        known = Dense("it", model_of())
        find_export("mergekit").write(make(), byte_tokenizer(), tmp_path / "x", made_from="it", dense=known)
    assert f"mergekit can only copy whole blocks as they are, and {said}" in str(told.value)
    assert str(told.value).count(". ") == 0 and str(told.value).endswith(".")
    assert not list(tmp_path.iterdir())


def test_a_dense_model_that_mergekit_would_not_find_or_not_shorten_is_refused(tmp_path):
    form, tokenizer = find_export("mergekit"), byte_tokenizer()
    with pytest.raises(PlanError, match="name it with '--dense', or give the key of the run"):
        form.check(model_of(), tokenizer)
    with pytest.raises(UnsupportedError, match="reads what follows '@' as a revision"):
        form.check(model_of(), tokenizer, dense=Dense(str(tmp_path / "a@b"), model_of()))
    model = model_of("qwen2")
    with pytest.raises(UnsupportedError, match="lists the type of every block, which it does not shorten"):
        form.check(without(model, 1), tokenizer, dense=Dense("it", model))

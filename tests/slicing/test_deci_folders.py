"""DeciLM folders, opened here: what we wrote is the model that was exported, and what others wrote is refused
where it says more than is built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.anatomy import why_not_sliceable
from analysis.errors import ModelError
from analysis.evaluate import perplexity
from analysis.sources.configuration import read_config
from analysis.sources.model import ModelSource
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.export import find_export
from slicing.inner.cut import BranchCuts, UnitCut, as_narrow_model, cut_model
from slicing.store import open_model

WINDOWS = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))


def channels(count: int) -> UnitCut:
    return UnitCut("channels", np.arange(count))


CUTS: list[list[BranchCuts]] = [[(), [channels(40)]], [None, [channels(17)]], [(), None], [None, None]]
"""Widths of MLPs, sub-layers that are gone, and a whole block."""


def cut(name: str) -> Any:
    made = reduce_blocks(tiny_model(name, num_hidden_layers=4), Layout.whole(4), check=False)
    cut_model(made, CUTS)
    return as_narrow_model(made)


def written(model: Any, folder: Path, **options: Any) -> Path:
    find_export("deci").write(model, byte_tokenizer(), folder / "deci", made_from="tiny", **options)
    return folder / "deci"


def source(folder: Path) -> ModelSource:
    return ModelSource.parse(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize(("name", "multiple"), [("llama", 1), ("llama", 256), ("qwen2", 1)])
def test_a_deci_folder_opens_here_as_the_model_that_was_exported(name, multiple, tmp_path):
    model = cut(name)
    folder = written(model, tmp_path, multiple=multiple)
    opened = open_model(source(folder))
    assert opened.model.config.model_type == "nemotron-nas"
    assert torch.allclose(opened.model(WINDOWS).logits, model(WINDOWS).logits, atol=1e-5)
    assert opened.tokenizer("a b").input_ids == byte_tokenizer()("a b").input_ids
    assert why_not_sliceable(read_config(source(folder)))
    assert perplexity(opened.model, WINDOWS).nll == pytest.approx(perplexity(model, WINDOWS).nll, abs=1e-5)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        (
            "attention",
            {"replace_with_linear": True},
            "'attention.replace_with_linear', which slicescope does not",
        ),
        ("attention", {"window_length": 512}, "sets 'attention.window_length'"),
        ("ffn", {"sparsify": [1]}, "sets 'ffn.sparsify'"),
        ("ffn", {"intermediate_size": None, "ffn_mult": None}, "does not say how large its 'ffn' is"),
        (None, {}, "says nothing of its 'attention'"),
    ],
)
def test_a_deci_folder_from_elsewhere_that_says_more_is_refused_in_a_sentence(part, change, said, tmp_path):
    folder = written(cut("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    if part:
        config["block_configs"][1][part] |= change
    else:
        config["block_configs"][1] = {}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        open_model(source(folder))


def test_settings_of_other_tools_that_are_off_change_nothing(tmp_path):
    model = cut("llama")
    folder = written(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for each in config["block_configs"]:
        each["attention"] |= {"num_sink_tokens": None, "unshifted_sink": False, "sparsify": None}
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_model(source(folder))
    assert torch.allclose(opened.model(WINDOWS).logits, model(WINDOWS).logits, atol=1e-5)

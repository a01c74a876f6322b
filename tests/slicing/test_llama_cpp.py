"""GGUF files of the demo model, opened by llama.cpp: ``pip install xllamacpp``, which no other test needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel, dequantise, open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.export import find_export
from slicing.inner.cut import BranchCuts, UnitCut, as_narrow_model, cut_model
from slicing.steps.base import Made
from slicing.studies.recipe import Recipe
from slicing.view import ModelView

xllamacpp: Any = pytest.importorskip("xllamacpp", reason="not installed: xllamacpp")
pytestmark = pytest.mark.demo
PROMPT = "Mr. Speaker, the state of our Union is"
TOKENS = 16
LINES = ("fasp(export=gguf)", "mixed(export=gguf, restore=false)")


@pytest.fixture(scope="module")
def demo() -> OpenModel:
    dequantise(source := ModelSource.parse("demo", device="cpu"))
    return open_dense(source)


def by_recipe(line: str, opened: OpenModel) -> Any:
    """The demo model with 10 % fewer parameters."""
    text = TextSource(kind="demo", split="calibration")
    view = ModelView(opened.model, token_windows(text, opened.tokenizer, 128, 4), profile_windows=2)
    (step,) = Recipe.parse(line).steps
    made = Made(opened.model)
    plan = step.decide(view, Budget.parse("parameters=0.1"), made)
    return as_narrow_model(step.apply(view, plan, made).model)


def by_hand(opened: OpenModel) -> Any:
    """Without some heads and sub-layers, the first attention among them, and with widths of all kinds."""
    heads = UnitCut("kv_groups", np.array([0, 2]))
    cuts: list[list[BranchCuts]] = [
        [
            None if block in (0, 12, 13) else [heads] if block % 5 == 3 else (),
            None if block in (13, 14, 29) else [UnitCut("channels", np.arange(1201 + block * 11))],
        ]
        for block in range(30)
    ]
    made = reduce_blocks(opened.model, Layout.whole(30), check=False)
    cut_model(made, cuts)
    return as_narrow_model(made)


def continued(path: Path, prompt: Any) -> tuple[list[int], list[float]]:
    """The tokens that llama.cpp writes greedily, and their log-probabilities."""
    asked = xllamacpp.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_parallel, asked.warmup = str(path), 256, 1, False
    asked.cpuparams.n_threads = 1
    answer = xllamacpp.Server(asked).handle_completions(
        {"prompt": prompt, "n_predict": TOKENS, "temperature": 0.0, "n_probs": 1}
    )
    answer = json.loads(answer) if isinstance(answer, str) else answer
    told = answer["choices"][0]["logprobs"]["content"]
    return [each["id"] for each in told], [each["logprob"] for each in told]


@pytest.mark.parametrize("made", ["by hand", *(pytest.param(line, marks=pytest.mark.slow) for line in LINES)])
def test_llama_cpp_writes_the_same_tokens(made, demo, tmp_path):
    model = by_hand(demo) if made == "by hand" else by_recipe(made, demo)
    ids = demo.tokenizer(PROMPT).input_ids
    with torch.no_grad():
        tokens = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        logits = model(tokens).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    expected = tokens[0, len(ids) :]
    known = logits.gather(1, expected[:, None])[:, 0]
    for dtype in ("f32", "f16"):
        path = tmp_path / f"{dtype}.gguf"
        find_export("gguf").write(model, demo.tokenizer, path, made_from="demo", dtype=dtype)
        for prompt in (ids, PROMPT):
            found, chances = continued(path, prompt)
            assert found == expected.tolist()
            assert np.allclose(chances, known.numpy(), atol=0.02)  # its cache is of 16 bits
    path = tmp_path / "q8_0.gguf"
    find_export("gguf").write(model, demo.tokenizer, path, made_from="demo", dtype="q8_0")
    assert abs(continued(path, ids)[1][0] - float(logits[0].max())) < 0.2

"""Closing the cuts: the solution of its equations, never worse where it is judged, nothing else touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alone import alone
from conftest import FAMILIES, all_states, byte_tokenizer, tiny_model
from every_family import tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

import slicing
from analysis.anatomy import anatomy_of, blocks
from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.hooks import watch_blocks
from slicing import repair as repairing
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.depth.reduce import reduce_model
from slicing.modeling_bridged import BridgedForCausalLM
from slicing.repair import Repair, RidgeFit, held_out
from slicing.repairs import REPAIRS, Cuts
from slicing.repairs import train_block as block_repair
from slicing.store import save_reduced

CLOSINGS = tuple(REPAIRS)
KINDS = ["llama untied, biases, long heads", "gpt2", "opt", "granite", "falcon", "falcon, two norms", "phi"]
"""Biases, transposed weights, a scale on what is written, parallel blocks, norms that centre."""
WITHOUT = Layout.without(5, (2,))
MERGED = Layout(blocks=5, groups=((0,), (1, 2), (3,), (4,)), merge="mean")


def bridge(model: Any, layout: Layout, windows: Tensor, held: int) -> Any:
    return REPAIRS["linear"].close(Cuts(model, reduce_blocks(model, layout), layout, windows, held))


def five(family: str = "llama", dtype: torch.dtype = torch.float32):
    return tiny_model(family, dtype, num_hidden_layers=5)


@pytest.fixture
def many() -> Tensor:
    """(16, 32) token ids, of few kinds: enough of each for the fits of tiny models to be worth something."""
    return torch.randint(3, 20, (16, 32), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def keeping(monkeypatch) -> None:
    """Whatever the held-out loss says, the cuts are closed."""
    monkeypatch.setattr(Repair, "kept", True)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def loss(model, windows: Tensor) -> float:
    return float(np.mean(perplexity(model, windows).nll))


def changed(model, other) -> set[str]:
    """The parameters that two models of the same blocks do not have in common."""
    theirs = dict(other.named_parameters())
    assert set(theirs) == {name for name, _ in model.named_parameters()}
    return {name for name, each in model.named_parameters() if not torch.equal(each, theirs[name])}


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_where_the_removed_block_did_nothing_closing_changes_nothing(family, closing, many, keeping):
    model = five(family, torch.float64)
    for name, parameter in blocks(model)[2].named_parameters():
        if any(writer in name for writer in ("o_proj", "down_proj", "c_proj", "dense.", "dense_4h_to_h")):
            parameter.zero_()
    found = reduce_model(model, WITHOUT, many, closing)
    assert off(found.model(many).logits, model(many).logits) < 1e-5
    assert found.repair is not None
    assert all(each.after <= each.before < 1e-10 for each in found.repair.sublayers)
    assert found.plain == (closing != "linear")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_bridge_solves_the_weighted_ridge_to_the_dense_stream(family, many, monkeypatch):
    """Against a direct solve of the stacked, weighted, ridged rows; the second bridge sees the first."""
    monkeypatch.setattr(repairing, "RIDGES", (1e-2,))
    model = five(family, torch.float64) if family != "gemma2" else tiny(family, torch.float64)
    removed = (1, 3) if family != "gemma2" else (1, 2)
    layout, held = Layout.without(len(blocks(model)), removed), held_out(len(many))
    bridged, told = bridge(model, layout, many, held)
    assert len(told) == len(layout.cuts) == len(bridged.config.bridges)
    assert all(each.ridge == 1e-2 for each in told)
    dense: dict[int, Tensor] = {}
    with watch_blocks(model, lambda place, _, leaving: dense.update({place: leaving})):
        model(many, use_cache=False)
    for cut in layout.cuts:
        block = blocks(bridged)[cut.after]
        reached: list[Tensor] = []
        handle = block.block.register_forward_hook(lambda *given: reached.append(given[-1]))  # noqa: B023
        bridged(many, use_cache=False)
        handle.remove()
        features = (reached[0][0] if isinstance(reached[0], tuple) else reached[0])[:-held].flatten(0, 1)
        target = dense[cut.to - 1][:-held].flatten(0, 1)
        weights = target.square().mean(-1, keepdim=True).rsqrt()
        rows, wanted = features * weights, target * weights
        ridge = (1e-2 * rows.square().sum(0)).sqrt().diag()
        stacked = torch.cat([rows, ridge])
        aim = torch.cat([wanted - rows, torch.zeros_like(ridge)])
        expected = torch.eye(32).double() + torch.linalg.lstsq(stacked, aim).solution
        assert torch.allclose(block.bridge, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", KINDS)
def test_the_fitted_writer_brings_the_plain_model_as_near_to_the_dense_stream_as_told(family, many, keeping):
    model = five(family, torch.float64)
    found = reduce_model(model, WITHOUT, many, "last-writer")
    assert found.repair is not None
    (told,) = found.repair.sublayers
    assert told.ridge is not None
    held = many[-found.repair.windows :]
    states = [all_states(each, held)[place] for each, place in ((model, 3), (found.model, 2))]
    if anatomy_of(model.config).centred:  # what the norms take off is not missed
        states = [each - each.mean(-1, keepdim=True) for each in states]
    weights = states[0].square().mean(-1, keepdim=True).rsqrt()
    wanted, reached = (weights * each for each in states)
    assert float((reached - wanted).square().sum() / wanted.square().sum()) == pytest.approx(told.after)
    assert told.after < told.before


OUT, DOWN = "self_attn.o_proj.weight", "mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("layout", "writer", "writers"),
    [
        (WITHOUT, {(1, DOWN)}, {(1, DOWN), (2, OUT), (2, DOWN), (3, OUT), (3, DOWN)}),
        (
            Layout.without(5, (1, 3)),
            {(0, DOWN), (1, DOWN)},
            {(0, DOWN), (1, OUT), (1, DOWN), (2, OUT), (2, DOWN)},
        ),
        (Layout.without(5, (3, 4)), {(2, DOWN)}, {(2, DOWN)}),
        # The first block is gone, and what comes first reads another stream.
        (Layout.without(5, (0,)), set(), {(place, each) for place in range(4) for each in (OUT, DOWN)}),
        (MERGED, {(1, DOWN)}, {(place, each) for place in (1, 2, 3) for each in (OUT, DOWN)}),
    ],
)
def test_writers_are_fitted_before_a_gap_or_from_there_on_and_nothing_else(
    layout, writer, writers, many, keeping
):
    model = five("llama")
    open_ = reduce_blocks(model, layout)
    for closing, names in (("last-writer", writer), ("writers", writers)):
        found = reduce_model(model, layout, many, closing)
        assert (found.repair is None) == (not names)
        sublayers = found.repair.sublayers if found.repair else ()
        assert len(sublayers) == len(names)
        told = [each.ridge is not None for each in sublayers]
        other = changed(found.model, open_)
        assert len(other) == sum(told)  # where no ridge was better, the writer stays
        assert other <= {f"model.layers.{place}.{name}" for place, name in names}
        assert not names or other


def test_the_block_before_a_gap_is_trained_and_nothing_else(many, keeping):
    model, layout = five("llama"), Layout.without(5, (1, 2, 4))
    found = reduce_model(model, layout, many, "train-block")
    assert found.repair is not None
    assert [each.after < each.before for each in found.repair.sublayers] == [True, True]
    names = {name for name, _ in found.model.named_parameters() if "layers." in name}
    assert changed(found.model, reduce_blocks(model, layout)) == names
    layout = Layout.without(5, (2,))
    names = {f"model.layers.1.{name}" for name, _ in blocks(model)[1].named_parameters()}
    found = reduce_model(model, layout, many, "train-block")
    assert changed(found.model, reduce_blocks(model, layout)) == names


@pytest.mark.parametrize("closing", ["linear", "last-writer", "train-block"])
def test_a_gap_with_no_block_in_front_stays_open_and_makes_no_other_model(closing, many):
    found = reduce_model(five("llama"), Layout.without(5, (0,)), many, closing)
    assert found.repair is None
    assert found.plain


@pytest.mark.parametrize("closing", CLOSINGS)
def test_a_merged_block_comes_nearer_to_the_blocks_it_stands_for(closing, many, keeping):
    model = five("llama", torch.float64)
    wanted = all_states(model, many)[3]
    found = [reduce_model(model, MERGED, many, each).model for each in ("none", closing)]
    found[1] = getattr(found[1], "inner", found[1])  # with matrices, the model that has them in its blocks
    before, after = (off(all_states(each, many)[2], wanted) for each in found)
    assert after < before


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("layout", [WITHOUT, Layout.without(5, (0, 3)), MERGED])
def test_closing_is_never_worse_on_what_it_is_judged_by(layout, closing, many):
    model = five("llama")
    found = reduce_model(model, layout, many, closing)
    told = found.repair
    assert told is not None
    held = many[-held_out(len(many)) :]
    open_loss = loss(reduce_blocks(model, layout), held)
    assert told.unrepaired == pytest.approx(open_loss, rel=1e-6)
    assert loss(found.model, held) == pytest.approx(min(told.repaired, told.unrepaired), rel=1e-6)


@pytest.mark.parametrize("closing", CLOSINGS)
def test_what_ruins_the_model_is_told_about_and_not_kept(closing, many, monkeypatch):
    solve, train = RidgeFit.solve, block_repair.train_block

    def spoil(self, *given):
        found, told = solve(self, *given)
        return -3.0 * found, told.model_copy(update={"ridge": 1.0})

    def spoil_block(*given):
        block, told = train(*given)
        block.mlp.down_proj.weight.mul_(-3.0)
        return block, told

    monkeypatch.setattr(RidgeFit, "solve", spoil)
    monkeypatch.setattr(block_repair, "train_block", spoil_block)
    model = five("llama")
    found = reduce_model(model, WITHOUT, many, closing)
    assert found.repair is not None
    assert not found.repair.kept
    assert found.repair.repaired > found.repair.unrepaired
    assert found.plain
    assert not changed(found.model, reduce_blocks(model, WITHOUT))


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_closing_is_the_same_every_time_and_leaves_the_dense_model_alone(family, closing, many, keeping):
    model = five(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = (reduce_model(model, Layout.without(5, (1, 3)), many, closing) for _ in range(2))
    assert first.repair == again.repair
    assert torch.equal(first.model(many).logits, again.model(many).logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    on_disk = reduce_model(model, Layout.without(5, (1, 3)), many, closing, budget=(0, 0))
    assert on_disk.repair == first.repair


def test_without_closing_or_without_a_gap_nothing_is_fitted(many):
    model = five("llama")
    for layout, closing in ((WITHOUT, "none"), (Layout.whole(5), "writers")):
        found = reduce_model(model, layout, many, closing)
        assert found.repair is None
        assert not changed(found.model, reduce_blocks(model, layout))
    with pytest.raises(PlanError, match="use 2 or more"):
        reduce_model(model, WITHOUT, many[:1], "linear")


@pytest.mark.parametrize("closing", ["last-writer", "writers"])
@pytest.mark.parametrize("family", ["gemma2", "olmo2", "bloom", "mixtral"])
def test_families_whose_writers_cannot_be_fitted_get_a_sentence_and_a_matrix(family, closing, many):
    model = tiny(family)
    layout = Layout.without(3, (1,))
    with pytest.raises(
        UnsupportedError, match=r"^Writers cannot be fitted: .* Choose the repair 'linear' instead\.$"
    ):
        reduce_model(model, layout, many, closing)
    found = reduce_model(model, layout, many, "linear")
    assert found.repair is not None
    assert len(found.repair.sublayers) == 1
    assert found.repair.sublayers[0].after <= found.repair.sublayers[0].before


def bridged_model(family: str, many: Tensor) -> BridgedForCausalLM:
    model = five(family) if family in FAMILIES else tiny(family)
    layout = Layout.without(5, (1, 3)) if family in FAMILIES else Layout.without(3, (1,))
    return bridge(model, layout, many, 2)[0]


def generated(model, windows: Tensor, cached: bool = True) -> Tensor:
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(
        windows[:2], attention_mask=torch.ones_like(windows[:2]), use_cache=cached, **options
    )


SAVED = ["llama", "gpt2", "falcon", "mistral", "qwen2_moe", "gemma2"]
# One configuration within another, a cache of its own and no positions, buffers made when it is opened, a
# decoder that transformers does not find, blocks of different widths.
SAVED += ["gemma3", "mamba", "falcon_h1", "modernbert-decoder", "gemma4_unified_text"]


@pytest.mark.parametrize("family", SAVED)
def test_a_bridged_model_saved_and_opened_is_the_same(family, many, tmp_path):
    bridged = bridged_model(family, many)
    bridged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).requires_grad_(False)
    assert isinstance(again, BridgedForCausalLM)
    assert again.config.bridges == bridged.config.bridges
    assert torch.equal(again(many).logits, bridged(many).logits)
    assert torch.equal(generated(again, many), generated(bridged, many))
    assert torch.equal(generated(bridged, many), generated(bridged, many, cached=False))
    count = [sum(each.numel() for each in model.parameters()) for model in (again, bridged)]
    assert count[0] == count[1]


def test_a_stream_of_another_width_than_the_embeddings_is_bridged(many):
    model = five("opt").config
    model.word_embed_proj_dim = 16
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model).eval().requires_grad_(False)
    found = bridge(model, WITHOUT, many, 2)[0]
    assert blocks(found)[1].bridge.shape == (32, 32)
    with pytest.raises(UnsupportedError, match=r"'qwen4_exp_text' it is \d+ wide: leave out the repair\.$"):
        reduce_model(tiny("qwen4_exp_text"), Layout.without(3, (2,)), many, "linear")


def test_a_bridge_multiplies_the_stream_behind_its_block(many):
    bridged = bridged_model("llama", many)
    seen = []
    for place in bridged.config.bridges:
        handle = blocks(bridged)[place].block.register_forward_hook(lambda *given: seen.append(given[-1]))
        with watch_blocks(bridged, lambda at, _, leaving, place=place: at == place and seen.append(leaving)):
            bridged(many, use_cache=False)
        handle.remove()
        inside, behind = seen[-2:]
        assert torch.allclose(behind, inside @ blocks(bridged)[place].bridge, atol=1e-6)


ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"analysis", "slicing", "app", "tests"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).requires_grad_(False)
windows = torch.tensor(windows)
mask = torch.ones_like(windows)
options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
tokens = model.generate(windows, attention_mask=mask, **options).tolist()
half = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="bfloat16")
dtypes = sorted({str(each.dtype) for each in half.parameters()})
print(json.dumps({"logits": model(windows).logits.tolist(), "tokens": tokens, "dtypes": dtypes}))
"""


def test_a_bridged_folder_opens_with_transformers_alone(many, tmp_path, keeping):
    found = reduce_model(five("llama"), WITHOUT, many, "linear")
    assert not found.plain
    folder = tmp_path / "model"
    words = {"made_from": "tiny", "method": "by hand", "dense_parameters": 10**5, "calibration": "a text"}
    save_reduced(found, byte_tokenizer(), folder, **words)
    assert "trust_remote_code=True" in (folder / "README.md").read_text()
    begin = f"folder, windows = {str(folder)!r}, {many[:2].tolist()!r}\n"
    answer = alone(begin + ALONE, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-3000:]
    said = json.loads(answer.stdout.splitlines()[-1])
    assert torch.allclose(torch.tensor(said["logits"]), found.model(many[:2]).logits, atol=1e-5)
    assert said["tokens"] == generated(found.model, many).tolist()
    assert said["dtypes"] == ["torch.bfloat16"]


def test_the_modelling_file_needs_torch_and_transformers_only():
    source = (Path(slicing.__file__).parent / "modeling_bridged.py").read_text()
    assert not re.search(r"(import|from) (analysis|slicing)", source)

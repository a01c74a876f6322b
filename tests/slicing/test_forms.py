"""Models in the forms of other tools: read back by their definition and by transformers, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from alone import alone
from conftest import tiny_model
from decilm import of_file, of_folder, width_said
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from analysis.errors import PlanError, StorageError, UnsupportedError
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from app.cli import exporting
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.export import EXPORTS, find_export
from slicing.export.vocabulary import _LLAMA3, CONTROL, NORMAL, UNUSED, USER_DEFINED, read_vocabulary
from slicing.inner.cut import BranchCuts, UnitCut, as_narrow_model, cut_model
from slicing.inner.plain import as_plain
from slicing.inner.widths import FORMS
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.steps import STEPS
from slicing.steps.base import Made
from slicing.steps.inner import Selective
from slicing.view import ModelView

WINDOWS = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, untied": {"model_type": "llama", "tie_word_embeddings": False},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "mistral": {"sliding_window": None},
}
ROPE: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def tokenizer_of(pre: Any, normalizer: Any = None, merges: Any = (("a", "b"),), **model: Any) -> Any:
    """One token per byte and a single merge, with text cut in some way."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", *alphabet, "ab"])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), **model))
    core.pre_tokenizer, core.decoder = pre, decoders.ByteLevel()
    if normalizer:
        core.normalizer = normalizer
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of(pre_tokenizers.ByteLevel(add_prefix_space=False))


def channels(count: int) -> UnitCut:
    return UnitCut("channels", np.arange(count))


HEADS = UnitCut("kv_groups", np.array([1]))
RANKS = UnitCut("value_pairs", np.concatenate([np.arange(6), 8 + np.arange(6)]))
CHANNELS: list[list[BranchCuts]] = [
    [(), [channels(40)]],
    [None, [channels(17)]],
    [(), None],
    [None, None],
    [(), [channels(33)]],
]
"""Widths of MLPs, sub-layers that are gone, and a whole block."""
ALL: list[list[BranchCuts]] = [
    [None, [channels(40)]],
    [[HEADS], [channels(17)]],
    [(), None],
    [[HEADS], None],
    [(), ()],
]
"""Heads too, and the first attention."""


def cut(model: Any, cuts: list[list[BranchCuts]]) -> Any:
    made = reduce_blocks(model, Layout.whole(len(cuts)), check=False)
    cut_model(made, cuts)
    return as_narrow_model(made)


def dense(name: str, **changes: Any) -> Any:
    settings = {"model_type": name, "num_hidden_layers": 5, **FAMILIES.get(name, {}), **changes}
    return tiny_model(name, **settings)


def written(form: str, model: Any, folder: Path, **options: Any) -> Path:
    path = folder / (form if find_export(form).folder else "model.gguf")
    find_export(form).write(model, tokenizer(), path, made_from="tiny", **options)
    return path


def same(found: torch.Tensor, model: Any, within: float = 1e-4) -> bool:
    expected = model(WINDOWS, use_cache=False).logits
    return bool((found - expected).abs().max() < within * expected.abs().max())


# Read by their definition


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("multiple", [1, 256])
def test_a_deci_folder_is_the_model(name, multiple, tmp_path):
    model = cut(dense(name), CHANNELS)
    folder = written("deci", model, tmp_path, multiple=multiple)
    assert same(of_folder(folder, WINDOWS), model)
    said = json.loads((folder / "config.json").read_text())["block_configs"]
    assert [each["attention"]["no_op"] for each in said] == [False, True, False, False]
    assert [each["ffn"]["no_op"] for each in said] == [False, False, True, False]
    widths = [width_said(each["ffn"], 32) for each in said if not each["ffn"]["no_op"]]
    assert widths == ([40, 17, 33] if multiple == 1 else [256] * 3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_a_gguf_file_is_the_model(name, dtype, tmp_path):
    cuts = CHANNELS if {"qwen2", "llama, biases"} & {name} else ALL
    model = cut(dense(name), cuts)
    path = written("gguf", model, tmp_path, dtype=dtype)
    assert same(of_file(path, WINDOWS), model, {"f32": 1e-4, "f16": 1e-2, "q8_0": 0.1}[dtype])


@pytest.mark.parametrize("name", ROPE)
@pytest.mark.parametrize("form", [name for name, form in EXPORTS.items() if not form.needs_dense])
def test_scaled_positions_travel(name, form, tmp_path):
    model = dense("llama", rope_parameters=ROPE[name])
    path = written(form, model, tmp_path, **({"dtype": "f32"} if form == "gguf" else {}))
    if form == "gguf":
        assert same(of_file(path, WINDOWS), model)
    config = json.loads((path / "config.json").read_text()) if form == "deci" else None
    if config:
        assert config["rope_parameters"] == ROPE[name]
        assert config["rope_theta"] == 5e5
        assert config["rope_scaling"]["rope_type"] == name


def test_a_plain_model_is_a_llama_for_every_reader_of_gguf(tmp_path):
    model = cut(dense("llama"), [[[HEADS], [channels(40)]]] * 5)
    model = as_plain(model.inner)
    path = written("gguf", model, tmp_path, dtype="f32")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.feed_forward_length"].contents() == 40
    opened = open_dense(ModelSource.parse(str(path), device="cpu"))
    assert same(opened.model(WINDOWS).logits, model)
    assert opened.tokenizer("a union").input_ids == tokenizer()("a union").input_ids


def test_a_multiple_fills_up_widths_with_what_adds_nothing(tmp_path):
    model = cut(dense("llama"), ALL)
    path = written("gguf", model, tmp_path, dtype="f32", multiple=64)
    widths = gguf.GGUFReader(path).fields["deci.feed_forward_length"].contents()
    assert all(width % 64 == 0 for width in widths)
    assert same(of_file(path, WINDOWS), model)


def test_a_gguf_file_says_the_sizes_of_every_block(tmp_path):
    reader = gguf.GGUFReader(written("gguf", cut(dense("llama"), ALL), tmp_path, dtype="f32"))
    fields = {
        name: reader.fields[f"deci.{name}"].contents()
        for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    }
    # Not there in the model: one head in the first block and the MLPs of the third and fourth, all of zeros.
    assert fields["attention.head_count"] == [1, 2, 4, 2, 4]
    assert fields["attention.head_count_kv"] == [1, 1, 2, 1, 2]
    assert fields["feed_forward_length"] == [40, 17, 32, 32, 48]
    zeros = {each.name for each in reader.tensors if not np.any(each.data)}
    assert zeros == {
        f"blk.{place}.ffn_{name}.weight" for place in (2, 3) for name in ("gate", "up", "down")
    } | {f"blk.0.attn_{name}.weight" for name in ("q", "k", "v", "output")}


def test_numbers_of_vectors_stay_in_fp32_and_odd_rows_in_fp16(tmp_path):
    model = dense("llama", hidden_size=24, head_dim=8)
    found = {
        each.name: each.tensor_type.name
        for each in gguf.GGUFReader(written("gguf", model, tmp_path, dtype="q8_0")).tensors
    }
    assert found["blk.0.attn_norm.weight"] == "F32"
    assert found["blk.0.attn_q.weight"] == "F16"
    assert found["blk.0.ffn_down.weight"] == "Q8_0"


# Read by transformers

ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"analysis", "slicing", "app", "tests"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
known = torch.load(sys.argv[2])
first = model.config.block_configs[0]
assert first.attention.n_heads_in_group == 2 and not first.ffn.no_op and not hasattr(first.ffn, "ffn_mult")
assert torch.allclose(model(known["windows"]).logits, known["logits"], atol=1e-5)
tokens = model.generate(known["windows"], max_new_tokens=8, do_sample=False, pad_token_id=0)
assert torch.equal(tokens, known["tokens"])
assert tokenizer("a union").input_ids == known["ids"]
model.save_pretrained(sys.argv[3])
again = AutoModelForCausalLM.from_pretrained(sys.argv[3], trust_remote_code=True)
assert again(known["windows"]).logits.equal(model(known["windows"]).logits)
"""


def test_a_deci_folder_opens_with_transformers_alone(tmp_path):
    model = cut(dense("qwen2"), CHANNELS)
    folder = written("deci", model, tmp_path)
    tokens = model.generate(WINDOWS, max_new_tokens=8, do_sample=False, pad_token_id=0)
    ids = tokenizer()("a union").input_ids
    known = {"windows": WINDOWS, "logits": model(WINDOWS).logits, "tokens": tokens, "ids": ids}
    torch.save(known, tmp_path / "known.pt")
    answer = alone(ALONE, folder, tmp_path / "known.pt", tmp_path / "again", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-3000:]


# What mlx-lm 0.32 takes in a part of a block, and refuses anything else
MLX = {
    "attention": {
        *("no_op", "replace_with_linear", "sparsify", "n_heads_in_group", "window_length", "num_sink_tokens"),
        *("use_prefill_window_in_sink_attention", "unshifted_sink"),
    },
    "ffn": {"no_op", "replace_with_linear", "sparsify", "ffn_mult"},
}


def test_widths_in_multiples_of_256_are_said_as_mlx_lm_reads_them(tmp_path):
    folder = written("deci", cut(dense("llama"), CHANNELS), tmp_path, multiple=256)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "nemotron-nas"
    for block in config["block_configs"]:
        assert all(set(block[part]) <= known for part, known in MLX.items())
        assert block["ffn"]["no_op"] or block["ffn"]["ffn_mult"] == round(block["ffn"]["ffn_mult"], 6)


# What cannot be said


def sliced() -> Any:
    schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")
    return slice_model(tiny_model("llama"), schedule, WINDOWS).model


def bridged() -> Any:
    inner = tiny_model("llama")
    config = BridgedConfig(text_config=inner.config, blocks="model.layers", bridges=[1])
    return BridgedForCausalLM(config, inner=inner)


def with_heads(model: Any) -> Any:
    return cut(model, [[[HEADS], ()], *[[(), ()]] * 4])


SIZED = ("deci", "gguf")
"""The forms that say the sizes of every block."""
REFUSED: dict[str, tuple[Any, str, str]] = {
    "sliced": (sliced, "both", "matrices on its shortcuts"),
    "bridged": (bridged, "both", "matrices in the place of blocks"),
    "family": (lambda: tiny_model("gpt2"), "both", "A model of type 'gpt2' cannot be written as"),
    "head norms": (
        lambda: tiny_model("qwen3"),
        "both",
        "those of Llama, as in the types llama, mistral, qwen2",
    ),
    "window": (lambda: tiny_model("mistral"), "both", "sliding window"),
    "activation": (lambda: tiny_model("llama", hidden_act="gelu"), "both", "activation 'gelu'"),
    "ranks": (
        lambda: cut(dense("llama"), [[[RANKS], ()], *[[(), ()]] * 4]),
        "both",
        "In 1 of 5 blocks the values",
    ),
    "heads": (
        lambda: with_heads(dense("llama")),
        "deci",
        "Some of 4 query heads are gone from 1 of 5 blocks",
    ),
    "first": (
        lambda: cut(dense("llama"), ALL[:1] + CHANNELS[1:]),
        "deci",
        "The first block of this model has no",
    ),
    "biased heads": (lambda: with_heads(dense("qwen2")), "both", "ome of (4|its) query heads are gone"),
    "positions": (
        lambda: dense("llama", rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 5e5}),
        "gguf",
        "positions of the kind 'dynamic'",
    ),
    "nothing": (lambda: cut(dense("llama"), [[None, None]] * 5), "both", "Nothing is left"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_form_cannot_say_is_refused_in_one_sentence(name, tmp_path):
    make, form, said = REFUSED[name]
    model = make()
    for each in (find_export(name) for name in SIZED):
        if form in ("both", each.name):
            with pytest.raises(UnsupportedError, match=said) as told:
                each.check(model, tokenizer())
            assert str(told.value).count(". ") == 0 and str(told.value).endswith(".")
            with pytest.raises(UnsupportedError, match=said):
                each.write(model, tokenizer(), tmp_path / "x", made_from="tiny")
            assert not list(tmp_path.iterdir())
        else:
            each.check(model, tokenizer())


def test_a_form_takes_what_its_kinds_leave():
    for form, said in FORMS.items():
        if form in EXPORTS:
            cuts: Any = {"channels": [(), [channels(20)]], "kv_groups": [[HEADS], ()]}
            for kind in said.kinds:
                EXPORTS[form].check(cut(dense("llama"), [[(), ()], cuts[kind], *[[(), ()]] * 3]), tokenizer())


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("form", SIZED)
@pytest.mark.parametrize("method", [name for name, kind in STEPS.items() if issubclass(kind, Selective)])
def test_what_is_made_for_a_form_is_not_refused_by_it(method, form, name):
    """The first attention adds nothing, so that it costs nothing to leave it out."""
    model, step = dense(name), STEPS[method](export=form, restore=False)
    model.model.layers[0].self_attn.o_proj.weight.zero_()
    view = ModelView(model, WINDOWS)
    budget = Budget(measure="size", amount=round(0.8 * view.shape.parameters))
    made = step.apply(view, step.decide(view, budget, Made(model)), Made(model))
    EXPORTS[form].check(as_narrow_model(made.model), tokenizer())


def test_numbers_that_16_bits_do_not_hold_are_refused(tmp_path):
    model = dense("llama")
    model.model.layers[1].mlp.down_proj.weight[0, 0] = 1e5
    for form in ("hf", *SIZED):
        with pytest.raises(UnsupportedError, match=r"too large for 16 bits: write them with '--dtype f32'"):
            written(form, model, tmp_path, dtype="f16")
        assert not list(tmp_path.iterdir())


def test_types_of_numbers_and_forms_that_there_are_not():
    with pytest.raises(PlanError, match="has no numbers of type 'q8_0': choose from own, f32, f16, bf16"):
        find_export("deci").dtype("q8_0")
    with pytest.raises(PlanError, match="'gguf'"):
        find_export("ggfu")


@pytest.mark.parametrize("form", ["hf", *SIZED])
def test_what_exists_stays(form, tmp_path):
    path = written(form, dense("llama"), tmp_path)
    before = path.stat().st_mtime_ns
    with pytest.raises(StorageError, match="exists already"):
        written(form, dense("llama"), tmp_path)
    assert path.stat().st_mtime_ns == before


# Tokenizers


def split(pattern: str) -> Any:
    steps = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(steps)


WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
QWEN2 = split(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))
RULES: dict[str, Any] = {
    "gpt-2": lambda: tokenizer_of(WORDS),
    "smollm": lambda: tokenizer_of(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS])
    ),
    "llama-bpe": lambda: tokenizer_of(split(_LLAMA3), ignore_merges=True),
    "qwen2": lambda: tokenizer_of(QWEN2, normalizers.NFC()),
}
OTHERS: dict[str, tuple[Any, str]] = {
    "spaces": (lambda: tokenizer_of(pre_tokenizers.Metaspace()), "cuts text in another way"),
    "prefix": (
        lambda: tokenizer_of(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "cuts text in another way",
    ),
    "merges": (lambda: tokenizer_of(split(_LLAMA3)), "cuts text in another way"),
    "normal": (lambda: tokenizer_of(WORDS, normalizers.Lowercase()), "cuts text in another way"),
    "bytes": (lambda: tokenizer_of(WORDS, byte_fallback=True), "no BPE of bytes"),
    "no merges": (lambda: tokenizer_of(WORDS, merges=()), "it has no merges"),
    "ends": (lambda: tokenizer_of(WORDS, end_of_word_suffix="_"), "marks of where a word continues"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_tokenizer_is_named_by_its_rules(rule):
    assert read_vocabulary(RULES[rule](), 300).rule == rule


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_are_refused(name):
    make, said = OTHERS[name]
    with pytest.raises(
        UnsupportedError, match=f"cannot be written as 'gguf', since .*{said}.*'--to deci' takes any"
    ):
        read_vocabulary(make(), 300)


def test_tokens_have_their_kinds_and_rows_without_a_token_a_name():
    made = tokenizer()
    made.add_tokens(["<own>"])
    found = read_vocabulary(made, 263)
    assert found.tokens[:3] == ("<pad>", "<s>", "</s>")
    assert found.kinds[:3] == (CONTROL,) * 3
    assert set(found.kinds[3:260]) == {NORMAL}
    assert (found.tokens[260], found.kinds[260]) == ("<own>", USER_DEFINED)
    assert found.tokens[261:] == ("[PAD261]", "[PAD262]")
    assert found.kinds[261:] == (UNUSED, UNUSED)
    assert found.merges == ("a b",)
    assert found.special == {"bos": 1, "eos": 2, "pad": 0}
    assert not found.add_bos and not found.add_eos
    with pytest.raises(UnsupportedError, match="has 261 tokens and the model 250"):
        read_vocabulary(made, 250)


@pytest.mark.parametrize(("template", "ends"), [("<s> $A", (True, False)), ("<s> $A </s>", (True, True))])
def test_first_and_last_tokens_are_told(template, ends):
    made = tokenizer()
    marks = [("<s>", 1), ("</s>", 2)]

    def around(single: str) -> None:
        core = made.backend_tokenizer
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)

    around(template)
    found = read_vocabulary(made, 300)
    assert (found.add_bos, found.add_eos) == ends
    around("</s> $A")
    with pytest.raises(UnsupportedError, match="other tokens around a text"):
        read_vocabulary(made, 300)


# The command


def test_the_command_offers_what_there_is():
    assert set(exporting.Form) == set(EXPORTS)
    assert set(exporting.Numbers) == {name for each in EXPORTS.values() for name in each.dtypes} - {"own"}

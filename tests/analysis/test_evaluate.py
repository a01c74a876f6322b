"""Perplexity by hand, and what a paired difference may claim."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.errors import ModelError, OutOfMemoryError, TextError
from analysis.evaluate import (
    Perplexity,
    continue_text,
    corrected,
    difference,
    perplexity,
    safe_precision,
)
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel, open_dense
from analysis.statistics import holm, mean_interval


def measured(nll: list[float]) -> Perplexity:
    return Perplexity(
        perplexity=math.exp(np.mean(nll)),
        nll=tuple(nll),
        window_length=16,
        tokens_per_second=1.0,
        seconds=1.0,
        peak_memory=1,
    )


def test_perplexity_is_that_of_a_hand_computation(family, windows):
    model = tiny_model(family)
    found = perplexity(model, windows)
    log = model(windows).logits.double().log_softmax(-1)
    by_hand = [
        -np.mean([float(log[n, t, windows[n, t + 1]]) for t in range(15)]) for n in range(len(windows))
    ]
    np.testing.assert_allclose(found.nll, by_hand, rtol=1e-5)
    assert found.perplexity == pytest.approx(math.exp(np.mean(by_hand)), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(model(windows, labels=windows).loss), rel=1e-5)
    assert found.protocol.startswith("token-level perplexity, 6 windows of 16 tokens, no overlap")


def test_the_protocol_says_where_windows_begin_with_bos(windows):
    model = tiny_model("gemma")
    assert not perplexity(model, windows).bos
    windows[:, 0] = model.config.bos_token_id
    assert "6 windows of 16 tokens, each begun by BOS, no overlap" in perplexity(model, windows).protocol
    model.config.bos_token_id = None
    assert not perplexity(model, windows).bos


def test_products_are_in_bfloat16_where_the_processor_has_them_and_the_loss_hardly_moves(
    windows, monkeypatch
):
    model, source = tiny_model("llama"), ModelSource(kind="folder", location="-")
    assert safe_precision(source, windows, model) == "exact"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    precision = safe_precision(source, windows, model)
    assert precision == "fast"
    fast, exact = perplexity(model, windows, precision=precision), perplexity(model, windows)
    assert "matrix products in bfloat16" in fast.protocol
    assert fast.nll != exact.nll
    np.testing.assert_allclose(fast.nll, exact.nll, atol=0.02)
    asked = source.model_copy(update={"dtype": "float32"})
    assert safe_precision(asked, windows, model) == "exact"


def test_batches_do_not_matter(windows, monkeypatch):
    model = tiny_model("llama")
    together = perplexity(model, windows).nll
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: 4 * windows.shape[1])
    np.testing.assert_allclose(perplexity(model, windows).nll, together, rtol=1e-6)


def test_logits_are_looked_at_in_parts_that_need_not_divide_them(windows, monkeypatch):
    model = tiny_model("llama")
    whole = perplexity(model, windows).nll
    monkeypatch.setattr("analysis.evaluate.ROWS", 7)
    np.testing.assert_allclose(perplexity(model, windows).nll, whole, rtol=1e-6)


def test_every_window_has_its_own_place_whatever_the_others_are(windows):
    model = tiny_model("llama")
    alone = [perplexity(model, window[None]).nll[0] for window in windows]
    np.testing.assert_allclose(perplexity(model, windows).nll, alone, rtol=1e-5)
    np.testing.assert_allclose(perplexity(model, windows.flip(0)).nll, alone[::-1], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_come_near_thirty_two(windows, dtype):
    model = tiny_model("llama", dtype)
    found = perplexity(model, windows).nll
    np.testing.assert_allclose(found, perplexity(tiny_model("llama"), windows).nll, rtol=0.02)
    log = model(windows).logits.double().log_softmax(-1)[:, :-1]  # only the logits are rounded, not the sums
    by_hand = -log.gather(-1, windows[:, 1:, None]).mean(dim=(1, 2))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_hopeless_model_has_a_number_all_the_same(windows):
    model = tiny_model("llama", tie_word_embeddings=False)
    model.lm_head.weight.mul_(1e5)
    found = perplexity(model, torch.cat([windows, windows]))
    assert math.isfinite(found.perplexity)
    assert found.perplexity > 1e300
    assert Perplexity.from_json(found.to_json(), "test") == found


def test_progress_counts_windows_to_the_end(windows, monkeypatch):
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: 4 * windows.shape[1])
    perplexity(tiny_model("llama"), windows, lambda *step: seen.append(step), "Judging")
    assert seen == [("Judging", 4, 6), ("Judging", 6, 6)]


def test_tokens_that_the_model_does_not_know_are_refused(windows):
    model = tiny_model("llama")
    windows[3, 5] = 300
    with pytest.raises(ModelError, match="makes token 300, but the model knows 300 tokens"):
        perplexity(model, windows)
    small = tiny_model("llama", vocab_size=20)
    with pytest.raises(ModelError, match="the model knows 20 tokens"):
        continue_text(OpenModel(small, byte_tokenizer()), "ab", 5)


def test_interval_is_there_from_eight_windows_on(windows):
    model = tiny_model("llama")
    assert perplexity(model, windows).interval is None
    more = perplexity(model, torch.cat([windows, windows + 1]))
    assert more.interval is not None
    assert more.interval[0] < more.perplexity < more.interval[1]


def test_windows_beyond_the_context_or_too_short_are_refused():
    model = tiny_model("llama")
    with pytest.raises(TextError, match="context ends at 128: choose shorter windows"):
        perplexity(model, torch.ones(1, 129, dtype=torch.long))
    with pytest.raises(TextError, match="at least 2 tokens"):
        perplexity(model, torch.ones(3, 1, dtype=torch.long))


def test_loss_that_is_not_finite_is_refused(windows):
    model = tiny_model("llama")
    hook = model.model.norm.register_forward_hook(lambda module, args, output: output * float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        perplexity(model, windows)
    hook.remove()
    model.model.norm.weight[0] = float("inf")
    with pytest.raises(ModelError, match=r"The weight 'model\.norm\.weight' holds NaN or infinity"):
        perplexity(model, windows)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_is_one_sentence_with_the_levers(windows, monkeypatch, error):
    model = tiny_model("llama")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(OutOfMemoryError, match="while evaluating: use shorter or fewer windows"):
        perplexity(model, windows)


@pytest.mark.parametrize(
    ("shift", "noise", "count", "verdict"),
    [
        (-0.1, 0.01, 16, "better"),
        (0.1, 0.01, 16, "worse"),
        (0.0, 0.1, 16, "no clear difference"),
        (-0.1, 0.01, 7, "too few windows to tell"),
    ],
)
def test_verdict_says_what_the_interval_allows(shift, noise, count, verdict):
    generator = np.random.default_rng(0)
    base = generator.normal(3, 0.5, count)
    steps = generator.normal(0, noise, count)
    other = base + shift + steps - steps.mean()
    found = difference("a", measured(base.tolist()), "b", measured(other.tolist()))
    assert found.verdict == verdict
    assert found.nats == pytest.approx(shift)
    assert found.percent == pytest.approx(100 * math.expm1(shift), abs=1e-9)


def test_pairing_sees_what_two_intervals_do_not():
    generator = np.random.default_rng(1)
    base = generator.normal(3, 0.5, 32)
    found = difference("a", measured(base.tolist()), "b", measured((base + 0.02).tolist()))
    low, high = mean_interval(base) or (0, 0)
    assert high - low > 0.1  # alone, each is known to a tenth of a nat
    assert found.verdict == "worse"


def test_only_the_same_windows_are_paired():
    with pytest.raises(ValueError, match="same windows"):
        difference("a", measured([1.0] * 8), "b", measured([1.0] * 9))


def test_the_interval_of_a_perplexity_is_that_of_its_mean_loss():
    nll = np.random.default_rng(2).normal(3.0, 0.3, 16)
    found = measured(nll.tolist())
    np.testing.assert_allclose(np.log(found.interval), mean_interval(nll))
    assert measured([3.0] * 7).interval is None


def test_an_evaluation_that_stored_its_interval_is_read():
    found = measured([3.0, 3.5] * 8)
    stored = {**found.model_dump(mode="json"), "interval": [1.0, 2.0]}
    assert Perplexity.from_json(json.dumps(stored), "it") == found


def test_many_differences_are_corrected_together():
    generator = np.random.default_rng(4)
    base = generator.normal(3, 0.5, 16)
    found = [
        difference("a", measured(base.tolist()), "b", measured((base + shift + 0.1 * noise).tolist()))
        for shift in (0.0, 0.06, -0.2)
        for noise in (generator.normal(0, 1, 16),)
    ]
    together = corrected(found)
    assert [each.comparisons for each in together] == [3, 3, 3]
    assert [each.p_value for each in together] == list(holm([each.p_value for each in found]))
    assert [each.nats_interval for each in together] == [each.nats_interval for each in found]
    assert together[2].verdict == "better"
    few = difference("a", measured([1.0] * 7), "b", measured([2.0] * 7))
    assert corrected([few, found[2]]) == (few, found[2])


def test_continuation_is_the_greedy_one():
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    sample = continue_text(OpenModel(model, tokenizer), "ab", 5)
    tokens = tokenizer("ab", return_tensors="pt").input_ids
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert sample.text == tokenizer.decode(tokens[0, 2:], skip_special_tokens=True)
    assert sample.tokens <= 5


def test_continuation_ends_where_the_context_does():
    opened = OpenModel(tiny_model("llama"), byte_tokenizer())
    assert continue_text(opened, "a" * 125, 50).tokens <= 3
    with pytest.raises(TextError, match="context ends at 128: choose a shorter prompt"):
        continue_text(opened, "a" * 128, 1)


@pytest.mark.parametrize(
    "own", [{"repetition_penalty": 3.0}, {"num_beams": 4}, {"no_repeat_ngram_size": 1}, {"do_sample": True}]
)
def test_continuation_is_greedy_whatever_the_models_own_settings_are(own):
    opened = OpenModel(tiny_model("llama"), byte_tokenizer())
    expected = continue_text(opened, "ab", 8).text
    for name, value in own.items():
        setattr(opened.model.generation_config, name, value)
    assert continue_text(opened, "ab", 8).text == expected


def test_continuation_ends_at_the_end_token():
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    free = continue_text(OpenModel(model, tokenizer), "ab", 8)
    assert free.tokens == 8
    tokens = tokenizer("ab", return_tensors="pt").input_ids
    model.generation_config.eos_token_id = int(model(tokens).logits[0, -1].argmax())
    assert continue_text(OpenModel(model, tokenizer), "ab", 8).tokens == 1


def test_learned_positions_end_where_the_context_does():
    opened = OpenModel(tiny_model("gpt2"), byte_tokenizer())
    assert continue_text(opened, "a" * 126, 50).tokens <= 2
    with pytest.raises(TextError, match="choose a shorter prompt"):
        continue_text(opened, "a" * 200, 5)


@pytest.mark.parametrize("count", [0, -3])
def test_no_new_tokens_are_refused(count):
    with pytest.raises(TextError, match=f"^{count} new tokens were asked for: ask for 1 or more"):
        continue_text(OpenModel(tiny_model("llama"), byte_tokenizer()), "ab", count)


def test_empty_prompt_is_refused():
    with pytest.raises(TextError, match="prompt is empty"):
        continue_text(OpenModel(tiny_model("llama"), byte_tokenizer()), "", 5)


def test_logits_are_never_made_for_a_whole_batch(family, windows, monkeypatch):
    monkeypatch.setattr("analysis.evaluate.ROWS", 10)
    model = tiny_model(family)
    logits = model(windows, use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), windows[:, 1:], reduction="none"
    ).mean(1)
    perplexity(model, windows)  # learns that the head can be asked alone
    rows: list[int] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    found = perplexity(model, windows)
    hook.remove()
    assert max(rows) == 10
    assert found.nll == pytest.approx(expected.tolist(), rel=1e-5)
    assert torch.equal(model(windows, use_cache=False).logits, logits)  # the decoder is back


def test_model_whose_head_cannot_be_asked_alone_is_evaluated_whole(windows):
    model, other = tiny_model("llama"), tiny_model("llama")
    forward = other.forward

    def curious(*args, **kwargs):
        assert len(other.model.layers) == 3  # an attribute of the decoder, which a stand-in does not have
        return forward(*args, **kwargs)

    other.forward = curious
    assert perplexity(other, windows).nll == pytest.approx(perplexity(model, windows).nll, rel=1e-6)
    assert type(other.model).__name__ == "LlamaModel"


SETTINGS = [
    {"stop_strings": ["x"]},
    {"do_sample": True, "temperature": -1.0},
    {"num_beams": 4, "num_return_sequences": 3},
    {"suppress_tokens": ["x"]},
    {"forced_eos_token_id": 10**9},
    {"guidance_scale": 3.0},
    {"prompt_lookup_num_tokens": 2},
    {"eos_token_id": "x"},
    {"eos_token_id": [-7, 10**12]},
    {"max_time": 0.0},
    {"return_dict_in_generate": True},
    {"assistant_early_exit": 1},
    {"constraints": [1]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_of_a_stranger_change_no_continuation(tiny_folder, settings, capfd):
    plain = continue_text(open_dense(ModelSource.parse(str(tiny_folder))), "ab", 4)
    (tiny_folder / "generation_config.json").write_text(json.dumps(settings))
    capfd.readouterr()
    opened = open_dense(ModelSource.parse(str(tiny_folder)))
    kept = opened.model.generation_config
    assert continue_text(opened, "ab", 4).text == plain.text
    assert opened.model.generation_config is kept
    assert capfd.readouterr() == ("", "")


def test_settings_that_transformers_refuses_are_one_sentence(tiny_folder):
    (tiny_folder / "generation_config.json").write_text('{"cache_implementation": "nonsense"}')
    with pytest.raises(ModelError, match="'tiny' cannot be read: Invalid `cache_implementation`"):
        open_dense(ModelSource.parse(str(tiny_folder)))

"""Models that write beside each other: the tokens of ``generate``, probabilities, where two part."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from pydantic import ValidationError

from analysis.errors import ModelError, NotFiniteError, TextError
from analysis.evaluate import continue_text
from analysis.sources.opening import OpenModel
from analysis.writing import LIKELIEST, Place, Prompt, first_parting, read, write, write_beside

PROMPT = "Mr. Speaker"


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return OpenModel(tiny_model("llama"), byte_tokenizer())


@pytest.fixture(scope="module")
def other(opened: OpenModel) -> OpenModel:
    """The same with a last block that adds nothing behind its attention: both draw alike for a while."""
    model: Any = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight.zero_()
    return OpenModel(model, byte_tokenizer())


def ids(places: list[Place]) -> list[int]:
    return [place.token for place in places]


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe", "gpt2"])
def test_greedy_text_is_that_of_generate_with_the_probabilities_of_one_pass(name: str) -> None:
    opened = OpenModel(tiny_model(name), byte_tokenizer())
    places = list(write(opened, Prompt(prompt=PROMPT, new_tokens=12)))
    written = opened.tokenizer.decode(ids(places), skip_special_tokens=True)
    assert written == continue_text(opened, PROMPT, 12).text
    assert all(place.taken for place in places)
    prompt = opened.tokenizer(PROMPT, return_tensors="pt").input_ids
    tokens = torch.cat([prompt, torch.tensor([ids(places)])], dim=1)
    with torch.inference_mode():
        shares = opened.model(tokens).logits[0, prompt.shape[1] - 1 : -1].softmax(-1)
    expected = shares.gather(1, tokens[0, prompt.shape[1] :, None])[:, 0]
    assert [place.probability for place in places] == pytest.approx(expected.tolist(), rel=1e-3)
    for place in places:
        assert len(place.likeliest) == LIKELIEST
        assert [each.probability for each in place.likeliest] == sorted(
            (each.probability for each in place.likeliest), reverse=True
        )


def test_reading_ones_own_text_agrees_at_every_place(opened: OpenModel) -> None:
    places = list(write(opened, Prompt(prompt=PROMPT, new_tokens=10)))
    again = read(opened, PROMPT, ids(places))
    assert ids(again) == ids(places) and all(place.taken for place in again)
    assert [each.piece for each in again] == [each.piece for each in places]
    assert [each.probability for each in again] == pytest.approx([p.probability for p in places], rel=1e-3)


def test_two_models_take_turns_and_the_smaller_reads_the_dense_text(
    opened: OpenModel, other: OpenModel
) -> None:
    asked = Prompt(prompt=PROMPT, new_tokens=24, temperature=1.0, seed=0)
    said = list(write_beside(opened, other, asked))
    assert [each.who for each in said] == ["dense", "smaller"] * 24 + ["read"] * 24
    texts = {who: [each.place for each in said if each.who == who] for who in ("dense", "smaller", "read")}
    assert ids(texts["dense"]) == ids(list(write(opened, asked)))
    assert ids(texts["smaller"]) == ids(list(write(other, asked)))
    assert ids(texts["read"]) == ids(texts["dense"])
    parted = first_parting(texts["dense"], texts["smaller"])
    assert parted is not None and parted > 0
    # As far as both write alike they are in the same place, so reading and writing say the same.
    for place in range(parted + 1):
        assert texts["read"][place].likeliest[0].token == texts["smaller"][place].likeliest[0].token


def test_texts_that_are_alike_part_nowhere(opened: OpenModel) -> None:
    one = list(write(opened, Prompt(prompt=PROMPT, new_tokens=5)))
    assert first_parting(one, one) is None and first_parting(one, one[:3]) is None
    changed = one[1].model_copy(update={"token": one[1].token + 1})
    assert first_parting(one, [one[0], changed, *one[2:]]) == 1


def test_drawing_follows_the_distribution_and_the_seed(opened: OpenModel) -> None:
    def first(seed: int, temperature: float = 1.0) -> Place:
        asked = Prompt(prompt=PROMPT, new_tokens=1, temperature=temperature, seed=seed)
        return next(iter(write(opened, asked)))

    assert ids([first(3)]) == ids([first(3)])
    drawn = [first(seed) for seed in range(300)]
    best = drawn[0].likeliest[0]
    share = sum(place.token == best.token for place in drawn) / len(drawn)
    spread = (best.probability * (1 - best.probability) / len(drawn)) ** 0.5
    assert abs(share - best.probability) < 4 * spread
    assert len({place.token for place in drawn}) > 3
    assert all(first(seed, 0.001).taken for seed in range(5))


def test_one_seed_draws_the_same_from_two_equal_models(opened: OpenModel) -> None:
    twin = OpenModel(tiny_model("llama"), byte_tokenizer())
    asked = Prompt(prompt=PROMPT, new_tokens=10, temperature=1.0, seed=7)
    said = list(write_beside(opened, twin, asked))
    texts = {who: [each.place for each in said if each.who == who] for who in ("dense", "smaller")}
    assert first_parting(texts["dense"], texts["smaller"]) is None
    assert not all(place.taken for place in texts["dense"])


def test_leaving_early_ends_the_work(opened: OpenModel, other: OpenModel) -> None:
    text = write_beside(opened, other, Prompt(prompt=PROMPT, new_tokens=40))
    next(text)
    next(text)
    text.close()
    assert not [each for each in threading.enumerate() if each.name == "slicescope-writer"]
    assert opened.model.generation_config.max_new_tokens is None
    assert len(list(write(opened, Prompt(prompt=PROMPT, new_tokens=3)))) == 3


def test_an_end_token_ends_the_text_and_is_shown(opened: OpenModel) -> None:
    model: Any = tiny_model("llama")
    places = list(write(OpenModel(model, byte_tokenizer()), Prompt(prompt=PROMPT, new_tokens=6)))
    model.generation_config.eos_token_id = places[2].token
    cut = list(write(OpenModel(model, byte_tokenizer()), Prompt(prompt=PROMPT, new_tokens=6)))
    first = ids(places).index(places[2].token)
    assert ids(cut) == ids(places)[: first + 1] and cut[-1].ends
    assert model.generation_config.eos_token_id == places[2].token


def test_characters_of_several_tokens_come_whole(opened: OpenModel) -> None:
    tokens = opened.tokenizer("é")["input_ids"]
    assert len(tokens) > 1
    places = read(opened, PROMPT, tokens)
    assert [place.piece for place in places] == ["", "é"]


def test_what_cannot_be_continued_is_a_sentence(opened: OpenModel) -> None:
    with pytest.raises((TextError, ValidationError), match="empty"):
        Prompt(prompt="  ")
    with pytest.raises(TextError, match="context ends at"):
        list(write(opened, Prompt(prompt="a" * 5000)))
    smaller = OpenModel(tiny_model("llama", vocab_size=320), byte_tokenizer())
    with pytest.raises(ModelError, match="other tokens"):
        next(write_beside(opened, smaller, Prompt(prompt=PROMPT)))
    broken: Any = tiny_model("llama")
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="no numbers"):
        list(write(OpenModel(broken, byte_tokenizer()), Prompt(prompt=PROMPT)))

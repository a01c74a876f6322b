"""Where the parts of a model go that is larger than a card; the cards are simulated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerator import simulated
from conftest import byte_tokenizer, tiny_model

from analysis.device import batch_tokens, pick_device, place_of
from analysis.errors import ModelError, OutOfMemoryError
from analysis.evaluate import perplexity
from analysis.needs import engine_room, is_spread
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.spread import DISK, lay_out, parts_of

BLOCKS = 12
ENDS = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]


@pytest.fixture(scope="module")
def model() -> Any:
    """Wide enough that its blocks weigh more than what the engine works with."""
    return tiny_model("llama", torch.float32, num_hidden_layers=BLOCKS, intermediate_size=20_000)


def room_of(model: Any, memory: float) -> int:
    with simulated("cuda", memory=memory):
        return engine_room(model, 4, batch_tokens(torch.device("cuda")))


def memory_for(model: Any, share: float) -> int:
    """Of a card that has room for a share of the model's weights beside what the engine works with."""
    return room_of(model, 0) + int(share * parts_of(model, 4).bytes)


@pytest.mark.parametrize(
    ("name", "devices", "host"),
    [
        ("cpu", ["cpu"], False),
        ("mps", ["mps"], False),
        ("cuda", ["cuda"], False),
        ("cuda:1", ["cuda:1"], False),
        ("cuda:0,1", ["cuda:0", "cuda:1"], False),
        ("cuda:0+cuda:1", ["cuda:0", "cuda:1"], False),
        ("cuda:2,1+cpu", ["cuda:2", "cuda:1"], True),
        ("cpu+cuda", ["cuda"], True),
    ],
)
def test_a_device_is_read_and_written_again(name, devices, host):
    place = place_of(name)
    assert (list(place.devices), place.host) == (devices, host)
    assert place_of(place.name) == place


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpu",
        "cuda:",
        "cuda:a",
        "cuda:01",
        "cuda:-1",
        "cuda:0,0",
        "cuda+cuda:0",
        "mps+cpu",
        "cuda+auto",
        "cuda+",
        "meta",
        "cuda:999",
    ],
)
def test_what_is_no_device_is_refused(name):
    with pytest.raises(ModelError, match=r"Unknown device .* Known: auto, .*cuda\+cpu, .*cuda:0,1"):
        place_of(name)


def test_two_ways_to_write_a_device_are_one_request_and_old_ones_stay():
    one, other = (ModelSource.parse("demo", device=name) for name in ("cpu+cuda", "cuda+cpu"))
    assert one.key == other.key
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert ModelSource.parse("demo", device=name).device == name


@pytest.mark.parametrize("name", ["cuda:0,1", "cuda:2", "cuda:2+cpu"])
def test_a_card_that_is_not_here_is_refused(name):
    with (
        simulated("cuda", count=1),
        pytest.raises(ModelError, match=r"The device 'cuda:[12]' is not available here"),
    ):
        pick_device(name)


@pytest.mark.parametrize(
    ("name", "cards", "share", "expected"),
    [
        ("auto", 1, 1.0, None),
        ("auto", 4, 1.0, None),  # one card where that is enough
        ("auto", 2, 0.6, {"cuda:0", "cuda:1"}),
        ("auto", 4, 0.3, {"cuda:0", "cuda:1", "cuda:2", "cuda:3"}),
        ("auto", 1, 0.5, {"cuda:0", "cpu"}),
        ("auto", 2, 0.3, {"cuda:0", "cuda:1", "cpu"}),
        ("cuda", 1, 0.5, None),  # as it was asked for; loading says that memory ran out
        ("cuda:0,1", 3, 0.6, {"cuda:0", "cuda:1"}),
        ("cuda:0,1", 3, 1.0, {"cuda:0", "cuda:1"}),  # as it was asked for, though one has room
        ("cuda:2,1", 3, 0.6, {"cuda:2", "cuda:1"}),
        ("cuda+cpu", 2, 0.6, {"cuda:0", "cpu"}),
        ("cuda+cpu", 2, 1.0, None),
        ("cuda:0,1+cpu", 2, 0.3, {"cuda:0", "cuda:1", "cpu"}),
    ],
)
def test_a_model_goes_to_as_few_places_as_hold_it(name, cards, share, expected, model, monkeypatch):
    monkeypatch.setattr("analysis.spread._STREAM", 0)
    memory = memory_for(model, share + 0.001)
    with simulated("cuda", count=cards, memory=memory):
        place = place_of(name)
        devices = ("cuda",) if name == "auto" else place.devices
        layout = lay_out("it", model, place._replace(devices=devices), 4)
    assert (layout and set(layout.values())) == expected
    if layout is None:
        return
    first, sizes = next(iter(layout.values())), parts_of(model, 4)
    assert {layout[end] for end in ENDS} == {first}
    order = [layout[f"model.layers.{place}"] for place in range(BLOCKS)]
    assert order == sorted(order, key=order.index), "the stream passes every card once"
    for card in set(layout.values()) - {"cpu"}:
        held = sum(size for part, size in (sizes.ends | sizes.blocks).items() if layout[part] == card)
        assert 0 < held <= memory - room_of(model, memory)


def test_weights_rest_on_the_host_rather_than_the_stream(model, monkeypatch):
    sizes = parts_of(model, 4)
    tokens = int(0.3 * sizes.bytes) // (32 * 4)
    monkeypatch.setattr("analysis.spread._STREAM", tokens)
    memory = memory_for(model, 0.801)
    with simulated("cuda", memory=memory):
        layout = lay_out("it", model, place_of("auto")._replace(devices=("cuda",)), 4)
    assert layout
    held = sum(size for part, size in (sizes.ends | sizes.blocks).items() if layout[part] == "cuda:0")
    assert 0.3 * sizes.bytes < held <= 0.5 * sizes.bytes + tokens
    monkeypatch.setattr("analysis.spread._STREAM", 10**9)  # the ends are there all the same
    with simulated("cuda", memory=memory_for(model, 0.2)):
        layout = lay_out("it", model, place_of("auto")._replace(devices=("cuda",)), 4)
    assert layout
    assert {layout[end] for end in ENDS} == {"cuda:0"}


def test_with_the_host_named_beside_one_card_all_blocks_of_a_large_model_rest_there(model, monkeypatch):
    size = parts_of(model, 4).bytes
    for total, expected in ((4 * size - 4, {"cpu"}), (4 * size, None)):
        monkeypatch.setattr("analysis.spread._memory", lambda card, total=total: total)
        with simulated("cuda", memory=memory_for(model, 1.0)):
            layout = lay_out("it", model, place_of("cuda+cpu"), 4)
        blocks = layout and {where for part, where in layout.items() if part not in ENDS}
        assert blocks == expected
        assert layout is None or {layout[end] for end in ENDS} == {"cuda:0"}


def test_several_cards_are_as_full_as_one_another(model):
    with simulated("cuda", count=4, memory=memory_for(model, 1.0)):
        layout = lay_out("it", model, place_of("cuda:0,1,2,3"), 4)
    assert layout
    counts = [list(layout.values()).count(f"cuda:{at}") for at in range(4)]
    assert [counts[0] - len(ENDS), *counts[1:]] == [3, 3, 3, 3]


def test_what_the_host_has_no_room_for_rests_on_disk(model, monkeypatch):
    memory, block = memory_for(model, 0.5), next(iter(parts_of(model, 4).blocks.values()))
    with simulated("cuda", memory=memory):
        told = {"cpu": (int(2.5 * block / 0.75), 10**12)}
        monkeypatch.setattr(
            "analysis.spread.memory_of", lambda device: told.get(str(device), (memory, memory))
        )
        layout = lay_out("it", model, place_of("cuda+cpu"), 4)
    assert layout
    assert list(layout.values()).count("cpu") == 2
    assert DISK in layout.values()


@pytest.mark.parametrize(("name", "lever"), [("cuda:0,1", True), ("cuda+cpu", False)])
def test_cards_that_do_not_hold_it_are_refused_with_what_would(name, lever, model):
    memory = memory_for(model, 0.3) if lever else room_of(model, 0)
    with simulated("cuda", count=2, memory=memory), pytest.raises(OutOfMemoryError) as told:
        lay_out("it", model, place_of(name), 4)
    assert f"The model 'it' does not fit on '{name}': its weights take" in str(told.value)
    assert ("(device cuda:0,1+cpu)" in str(told.value)) == lever


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "cards", "share", "places"),
    [
        ("auto", 1, 1.1, {"cuda:0"}),
        ("auto", 2, 0.7, {"cuda:0", "cuda:1"}),
        ("cuda:1,0", 2, 0.7, {"cuda:0", "cuda:1"}),
        ("auto", 1, 0.6, {"cuda:0", "meta"}),
        ("cpu+cuda", 1, 0.6, {"cuda:0", "meta"}),
    ],
)
def test_a_model_is_opened_where_it_is_to_lie_and_runs_there(
    name, cards, share, places, folder, model, windows, monkeypatch
):
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # the simulation sees its own thread alone
    # It takes memory beforehand, and goes wrong on cards below 1.2 GB.
    monkeypatch.setattr("transformers.modeling_utils.caching_allocator_warmup", lambda *_: None)
    expected = perplexity(model, windows[:2]).perplexity
    with simulated("cuda", count=cards, memory=memory_for(model, share)):
        opened = open_dense(ModelSource.parse(str(folder), device=name, dtype="float32")).model
        assert {str(each.device) for each in opened.parameters()} == places
        assert is_spread(opened) == (len(places) > 1)
        assert perplexity(opened, windows[:2]).perplexity == pytest.approx(expected, rel=1e-5)

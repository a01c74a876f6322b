"""Fetching from a Hub on the loopback interface: what comes, how it is told, stopped and gone on with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from model_hub import Hub, ask, hub_of
from safetensors.torch import save_file

from analysis.errors import Cancelled, ModelError, StorageError
from analysis.fetch import fetch, fetched
from analysis.sources.hub import FETCHING, look_up

MIB = 2**20


def weights(path: Path, size: int) -> None:
    """A file of about so many bytes, unlike others."""
    save_file({path.stem: torch.arange(size // 4, dtype=torch.float32)}, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as they lie on the Hub, with much beside them that nobody needs."""
    folder = tmp_path_factory.mktemp("hub")
    plain = folder / "owner/plain/main"
    tiny_model("llama").save_pretrained(plain)
    byte_tokenizer().save_pretrained(plain)
    (plain / "original").mkdir()
    for name in ("pytorch_model.bin", "own.py", "original/consolidated.pth", "original/params.json"):
        (plain / name).write_bytes(b"not wanted")
    weights(plain / "consolidated.safetensors", MIB)

    big = folder / "owner/big/main"
    shutil.copytree(plain, big)
    (big / "model.safetensors").unlink()
    shards = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for shard in shards:
        weights(big / shard, 4 * MIB)
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (big / "model.safetensors.index.json").write_text(json.dumps(index))

    for name in ("gated", "private", "pickled", "escaping"):
        shutil.copytree(folder / "owner/plain", folder / "owner" / name)
    (folder / "owner/gated/.gated").write_text("granted")
    (folder / "owner/private/.private").write_text("granted")
    (folder / "owner/pickled/main/model.safetensors").unlink()
    (folder / "owner/escaping/main/model.safetensors").unlink()
    index = {"weight_map": {"a": "../../../../secret.safetensors"}}
    (folder / "owner/escaping/main/model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_of(folder) as hub:
        ask(hub, tmp_path / "hf", monkeypatch)
        yield hub


def fetch_slowly(hub: Hub, stop_at: int) -> float:
    """Fetch until so many bytes have come, then stop; the seconds that stopping took."""
    asked = 0.0

    def listen(phase: str, done: int, total: int) -> None:
        nonlocal asked
        if done >= stop_at:
            asked = time.monotonic()
            hub.stalled.set()  # not a byte comes any more
        if asked and time.monotonic() > asked:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        fetch("owner/big", progress=listen)
    return time.monotonic() - asked


def test_only_what_opening_takes_is_fetched(hub: Hub) -> None:
    assert fetched("owner/plain") is None
    place = fetch("owner/plain")
    assert fetched("owner/plain") == place
    assert {path.name for path in place.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    asked = "\n".join(hub.asked)
    assert not any(name in asked for name in (".bin", ".py", "original", "consolidated", "POST"))


def test_bytes_are_told_as_they_come(hub: Hub) -> None:
    hub.rate = 3 * MIB
    told: list[tuple[str, int, int]] = []
    place = fetch("owner/big", progress=lambda *step: told.append(step))
    total = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    assert all(phase == FETCHING for phase, _, _ in told)
    assert told[-1][1:] == (total, total)
    between = [done for _, done, all_of_it in told if all_of_it == total]
    assert between == sorted(between)
    assert len(set(between)) >= 4
    said = len(hub.asked)
    assert fetch("owner/big") == place
    assert len(hub.asked) == said  # what is here is opened without a word to anybody


def test_stopping_takes_less_than_a_second_and_what_came_is_kept(hub: Hub) -> None:
    hub.rate = 3 * MIB
    assert fetch_slowly(hub, stop_at=4 * MIB) < 1.0
    assert fetched("owner/big") is None
    hub.stalled.clear()
    hub.rate = None
    before, hub.asked = hub.sent, []
    told: list[int] = []
    place = fetch("owner/big", progress=lambda phase, done, total: told.append(done))
    whole = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    assert whole - (hub.sent - before) >= 3 * MIB  # at most a chunk of each file has come twice
    assert any("bytes=" in line for line in hub.asked)
    for file in place.glob("*.safetensors"):
        assert file.read_bytes() == (hub.folder / "owner/big/main" / file.name).read_bytes()
    assert not list(place.parents[1].rglob("*.incomplete"))


def test_a_model_without_room_for_it_is_refused_before_a_weight_comes(hub: Hub) -> None:
    hub.claimed = 10**15
    with pytest.raises(
        StorageError,
        match=r"Fetching 'owner/big' into .* needs 2000000\.00 GB.* set HF_HOME to a folder on an",
    ):
        fetch("owner/big")
    assert hub.sent == 0


@pytest.mark.parametrize(
    ("name", "revision", "token", "sentence"),
    [
        (
            "gated",
            None,
            None,
            r"'owner/gated' is gated: accept its conditions at http://127.0.0.1:\d+/owner/gated, then log in "
            r"with 'hf auth login' or set HF_TOKEN, and try again\.",
        ),
        ("gated", None, "another", r"is gated: accept its conditions at .*, then wait until that is granted"),
        ("private", None, None, r"is not on the Hub, or is private: check its name, log in with 'hf auth"),
        ("private", None, "another", r"is not on the Hub, or is private: check its name, use a token that"),
        ("nothing", None, None, r"is not on the Hub, or is private: check its name"),
        ("plain", "v9", None, r"'owner/plain@v9' has no revision 'v9': see http"),
        ("pickled", None, None, r"has no safetensors weights on the Hub, and pickled ones"),
        (
            "escaping",
            None,
            None,
            r"names '\.\./\.\./\.\./\.\./secret\.safetensors', but only safetensors files",
        ),
    ],
)
def test_each_refusal_has_a_sentence_of_its_own(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    revision: str | None,
    token: str | None,
    sentence: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=sentence):
        fetch(f"owner/{name}", revision)
    assert hub.sent == 0


@pytest.mark.parametrize("name", ["gated", "private"])
def test_a_token_opens_what_is_closed_to_others(hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "granted")
    assert (fetch(f"owner/{name}") / "model.safetensors").is_file()
    assert hub.tokens_elsewhere == 0


def test_without_the_hub_what_is_here_is_used_and_the_rest_is_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fetch("owner/plain")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("owner/plain") == place
    with pytest.raises(ModelError, match="not on this machine, and HF_HUB_OFFLINE forbids to fetch it"):
        fetch("owner/big")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        ModelError, match=r"the Hub does not answer at http://127.0.0.1:9: check the connection"
    ):
        fetch("owner/big")
    assert time.monotonic() - start < 15


def test_what_fetches_ends_with_whoever_asked(hub: Hub) -> None:
    hub.stalled.set()
    command = (
        "from analysis.fetch import fetch; fetch('owner/big', progress=lambda *far: print(*far, flush=True))"
    )
    asker = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True)
    assert asker.stdout
    while asker.stdout.readline().strip() in (f"{FETCHING} 0 1", ""):  # until it waits for the weights
        assert asker.poll() is None
    (child,) = psutil.Process(asker.pid).children()
    asker.kill()
    asker.wait()
    asker.stdout.close()
    for _ in range(50):
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    raise AssertionError("it goes on")


def test_the_listing_tells_size_and_base_model(hub: Hub) -> None:
    assert look_up("owner/nothing") == (None, None)
    size = sum(path.stat().st_size for path in (hub.folder / "owner/big/main").glob("model-*"))
    assert look_up("owner/big") == (size, None)
    card = hub.folder / "owner/big/.card"
    for said, meant in (
        ({"base_model": "a/b"}, "a/b"),
        ({"base_model": ["a/b"], "base_model_relation": "quantized"}, "a/b"),
        ({"base_model": ["a/b", "a/c"]}, None),
        ({"base_model": "a/b", "base_model_relation": "finetune"}, None),
        ({"base_model": "[log in](https://evil.example)"}, None),
    ):
        card.write_text(json.dumps(said))
        assert look_up("owner/big").base_model == meant
    card.unlink()

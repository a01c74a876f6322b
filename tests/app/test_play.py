"""Writing beside each other through engine and queue, what is said of it, its HTML, what strangers may."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from analysis.sources.model import ModelSource
from analysis.writing import Option, Place, Prompt
from app import repeat, wording
from app.cli.program import app
from app.engine import Came, Do, Ended, Engine, Play
from app.jobs import Worker
from app.policy import Policy, Refused
from app.written import read_text, share, shown, written_text


def place(token: int, piece: str, probability: float = 0.5, first: int | None = None) -> Place:
    best = Option(
        token=token if first is None else first, piece=piece if first is None else "x", probability=0.9
    )
    return Place(token=token, piece=piece, probability=probability, likeliest=(best,))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[ModelSource, ModelSource]:
    found = []
    for name in ("dense", "small"):
        tiny_model("llama").save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
        found.append(ModelSource.parse(str(tmp_path / name)))
    return found[0], found[1]


def engine(sent: list[Any], stop: bool = False) -> Engine:
    """An engine without a process; with ``stop`` its server stops the task at the first token."""
    line: Any = SimpleNamespace(send=sent.append)
    made = Engine(line, perform=lambda *_: None)
    send = sent.append

    def heard(message: Any) -> None:
        send(message)
        if stop and isinstance(message, Came):
            made._stopped.add(message.number)

    line.send = heard
    return made


def test_the_engine_sends_every_place_as_it_comes_and_keeps_both_open(pair: Any) -> None:
    sent: list[Any] = []
    made = engine(sent)
    task = Play(pair[0], pair[1], Prompt(prompt="ab", new_tokens=4))
    assert made._outcome(Do(7, task)) == Ended(7, "done")
    came = [each.part.who for each in sent if isinstance(each, Came)]
    assert came == ["dense", "smaller"] * 4 + ["read"] * 4
    beside = made._beside
    assert made._outcome(Do(8, task)).outcome == "done" and made._beside is beside
    made._outcome(Do(9, Play(pair[0], None, Prompt(prompt="ab", new_tokens=2))))
    assert made._beside is None and made._held[0] == pair[0]


def test_a_stopped_text_ends_at_its_next_token(pair: Any) -> None:
    sent: list[Any] = []
    ended = engine(sent, stop=True)._outcome(
        Do(1, Play(pair[0], pair[1], Prompt(prompt="ab", new_tokens=50)))
    )
    assert ended == Ended(1, "cancelled")
    assert len([each for each in sent if isinstance(each, Came)]) == 1


def test_a_job_holds_what_has_come_and_nothing_of_it_is_written_down(pair: Any) -> None:
    worker = Worker()
    try:
        job = worker.submit(Play(pair[0], pair[1], Prompt(prompt="ab", new_tokens=6)), "ann")
        assert not worker._journal._paths
        assert worker.wait(job, 120) and job.state == "done", job.error
        assert len(job.came) == 18
        assert worker.report is not None and wording.title(job.task) == "Write with dense and a smaller one"
    finally:
        worker.stop()


def test_strangers_may_play_with_what_the_server_offers(pair: Any) -> None:
    dense, small = pair
    policy = Policy.demo(models=(dense, small))
    policy.check(Play(dense, small, Prompt(prompt="ab", new_tokens=60, temperature=1.0, seed=3)))
    with pytest.raises(Refused, match="60 new tokens at most"):
        policy.check(Play(dense, small, Prompt(prompt="ab", new_tokens=61)))
    with pytest.raises(Refused, match="shorten it"):
        policy.check(Play(dense, None, Prompt(prompt="a" * 3000)))
    with pytest.raises(Refused, match="does not offer"):
        Policy.demo(models=(dense,)).check(Play(dense, small, Prompt(prompt="ab")))


def test_what_is_said_of_two_texts() -> None:
    one, other = [place(1, " a"), place(2, " b", 0.31)], [place(1, " a"), place(3, " c", 0.004)]
    said = wording.parting(one, other, True)
    assert said.startswith("They write the same **1 token**, then part")
    assert "“b” (31\N{NO-BREAK SPACE}%)" in said and "“c” (below 1\N{NO-BREAK SPACE}%)" in said
    assert wording.parting(one[1:], other[1:], True).startswith("They part **at the first token**")
    assert wording.parting(one, one, True) == "Both write the same 2 tokens."
    assert wording.parting(one, one[:1], False) == "So far both write the same 1 token."
    read = [place(1, " a"), place(2, " b", first=9)]
    assert wording.agreement(read).startswith("At **1 of 2** places")


def test_tokens_are_text_and_no_markup() -> None:
    told = written_text("<i>", [place(1, "<b>\n"), place(2, '"x')], 1, "a text")
    assert "<i>" not in told and "<b>\n" not in told and "&lt;b&gt;↵" in told
    assert told.count("they part here") == 1 and told.index("they part here") > told.index("&lt;b&gt;")
    above = read_text("p", [place(1, "a"), place(2, "b", first=5)], "a text")
    assert above.count("<ruby>") == 1
    assert shown("  a\n ") == "␣␣a↵␣" and shown(" ") == "␣" and shown("") == "(part of a character)"
    assert [share(each) for each in (0.0, 0.052, 0.5)] == [
        f"{told}\N{NO-BREAK SPACE}%" for told in ("< 0.1", "5.2", "50")
    ]


def test_the_command_repeats_what_the_page_did(pair: Any) -> None:
    dense, small = pair
    task = Play(dense, small, Prompt(prompt="The state of", new_tokens=5, temperature=1.0, seed=2))
    line = repeat.play_command(task)
    assert f"--beside {small.location}" in line and "--temperature 1" in line and "--seed 2" in line
    found = CliRunner().invoke(app, [*_words(line), "--json", "-"])
    assert found.exit_code == 0, found.output
    data = json.loads(found.stdout)
    assert 0 < len(data["dense"]) == len(data["smaller"]) == len(data["read"]) <= 5
    assert data["parting"] is None and data["seed"] == 2
    shown_too = CliRunner().invoke(app, _words(line))
    assert f"Both write the same {len(data['dense'])} tokens" in shown_too.output + shown_too.stderr


def _words(line: str) -> list[str]:
    return shlex.split(line)[1:]

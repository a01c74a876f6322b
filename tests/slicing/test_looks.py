"""The looks of a training that runs: another process reads them as they come, and they go when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import Tensor
from torch.nn import functional

from slicing.healing import looks
from slicing.healing.examples import Examples
from slicing.healing.limits import Limits
from slicing.healing.looks import Underway, training_of
from slicing.healing.student import student_of, trainable
from slicing.healing.training import LOOKS, Settings, train

READ = (
    "import sys; from slicing.healing.looks import training_of; "
    "print(training_of(int(sys.argv[1])).to_json())"
)
LENGTH, TOKENS = 16, 4000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    return tmp_path / "cache" / "trainings"


def next_token(model: Any, rows: Examples) -> Tensor:
    logits = model(rows.tokens).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), rows.tokens[:, 1:].flatten())


def trained(tell: Any) -> Any:
    """Train a tiny model to count, for a moment."""
    student = student_of(tiny_model("llama", num_hidden_layers=2))
    trainable(student, "all", 1, 1.0)
    rows = torch.arange(72)[:, None] + torch.arange(LENGTH)[None] + 3
    examples, held = Examples.of(rows[8:]), Examples.of(rows[:8])
    settings = Settings("count", 1e-3, 2, 0, "exact")
    return train(student, next_token, examples, held, Limits(TOKENS), settings, tell)


def test_another_process_reads_the_looks_of_a_training_as_they_come(home: Path) -> None:
    seen: list[Underway] = []

    def tell(used: float) -> None:
        if used > 0.45 and len(seen) == 0:
            words = [sys.executable, "-c", READ, str(os.getpid())]
            answer = subprocess.run(words, capture_output=True, text=True, check=True)
            seen.append(Underway.from_json(answer.stdout, "the answer"))

    told = trained(tell)
    (found,) = seen
    assert found.step == "count" and found.windows == 8
    assert 4 <= len(found.looks) <= LOOKS / 2 + 1
    assert found.looks == told.looks[: len(found.looks)]  # those of the end begin with them
    assert found.expected == pytest.approx(TOKENS, rel=0.1)
    assert training_of(os.getpid()) is None
    assert list(home.iterdir()) == []


def test_a_training_that_is_broken_off_shows_nothing_any_more(home: Path) -> None:
    def dies(used: float) -> None:
        if used > 0.3:
            assert training_of(os.getpid())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(dies)
    assert training_of(os.getpid()) is None


def test_what_a_killed_process_left_goes_with_the_next_training(home: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with looks.shown("count", 8) as note:
        note([], 0, 0.0)
        mine = looks._file(os.getpid())
        left, other = looks._file(gone.pid), home / "of-another.pt"
        for path in (left, other):
            path.write_bytes(mine.read_bytes())
    assert training_of(gone.pid)
    with looks.shown("count", 8):
        assert not left.exists() and other.exists()


def test_between_looks_it_is_not_written_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(looks, "EVERY", 3600.0)
    monkeypatch.setattr(looks, "write_whole", lambda path, content: written.append(json.loads(content)))
    trained(lambda used: None)
    assert [len(each["looks"]) for each in written] == list(range(1, LOOKS + 2))  # of 125 steps


def test_a_disk_that_cannot_be_written_does_not_end_a_training(home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    assert trained(lambda used: None).tokens >= TOKENS
    assert training_of(None) is None

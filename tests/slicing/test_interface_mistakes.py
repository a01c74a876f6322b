"""Whatever the Python interface is given for one of its arguments, it does its work or says one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

import slicing
from analysis.errors import SlicescopeError
from slicing.interface import asking

TEXT = ["It is a truth universally acknowledged, that a tensor must want a basis. " * 30]
OTHER = ["Call me a vector. Some years ago, never mind how long, I thought I would rotate. " * 30]
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 5, 2.5, float("nan"), "", "junk", "20%", b"bytes", object(), len, [], [5], ["junk"]),
    *({}, {"a": 1}, (1, 2), torch.zeros(2), torch.zeros(2, 32, dtype=torch.long), np.zeros((2, 2)), "a\nb"),
)
VERBS = [name for name in slicing.__all__ if inspect.isfunction(getattr(slicing, name))]


class Reached(Exception):
    """The work would begin now."""


@pytest.fixture(scope="module")
def opened() -> Any:
    return slicing.load(tiny_model("llama"), byte_tokenizer())


@pytest.fixture(scope="module")
def made(opened: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each verb is given where nothing is wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        said: dict[str, Any] = {"windows": 8, "window_length": 32, "progress": False}
        judged = {"text": TEXT, "evaluation": OTHER, **said}
        yield {
            "profile": {"model": opened, "text": TEXT, **said},
            "plan": {"profile": slicing.profile(opened, TEXT, **said)},
            "compress": {"model": opened, "how": "shortgpt", "budget": "blocks=1", "text": TEXT, **said},
            "heal": {"smaller": slicing.compress(opened, "shortgpt", budget="blocks=1", text=TEXT, **said)},
            "compare": {"model": opened, **judged},
            "study": {"model": opened, "recipes": ["slice(constant)"], **judged},
            "evaluate": {"model": opened, "text": OTHER, **said},
            "load": {"model": opened.model, "tokenizer": opened.tokenizer},
            "save": {"model": opened, "folder": "saved"},
        }


ARGUMENTS = [
    (verb, name)
    for verb in VERBS
    for name, each in inspect.signature(getattr(slicing, verb)).parameters.items()
    if each.kind is not each.VAR_KEYWORD
]
SETTINGS = [
    *(("plan", name) for name in ("base", "score", "rounding", "max_fraction", "settings", "temperature")),
    *(("study", name) for name in ("jitter", "tasks", "other", "healing_text", "view", "unknown")),
    *(("compare", name) for name in ("new_tokens", "speed_rounds", "prompt", "recipes", "model_")),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of windows that are far too short
@pytest.mark.parametrize(("verb", "name"), [*ARGUMENTS, *SETTINGS])
def test_every_argument_takes_anything_or_says_so(made, verb, name, monkeypatch, tmp_path):
    def begin(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr(asking, "perform", begin)
    monkeypatch.chdir(tmp_path)
    told = 0
    for junk in JUNK:
        if junk is len and name == "progress":  # it is told how far the work is
            continue
        try:
            getattr(slicing, verb)(**{**made[verb], name: junk})
        except SlicescopeError as error:
            told += 1
            assert str(error).rstrip().endswith((".", "?")), str(error)
            assert "pydantic" not in str(error)
        except Reached:
            pass
    assert told or name in FREE, f"slicing.{verb} takes anything for {name}"


FREE = {"store"}
"""Arguments whose every value is a truth or none."""

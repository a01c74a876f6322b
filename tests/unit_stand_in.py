"""A stored run that tells what units cost, of a tiny model on a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import byte_tokenizer, tiny_model

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.studies.requests import ProfileRequest
from slicing.studies.results import Run
from slicing.studies.run import perform

SAID = "What is taken away is missed where it stood. "


def units_request(folder: Path, **asked: Any) -> ProfileRequest:
    """A request for a profile of a tiny model, which is written to ``folder`` with its text."""
    tiny_model("llama").save_pretrained(folder / "tiny")
    byte_tokenizer().save_pretrained(folder / "tiny")
    (folder / "text.txt").write_text(SAID * 40)
    text = TextSource(kind="file", location=str(folder / "text.txt"))
    model = ModelSource.parse(str(folder / "tiny"), device="cpu")
    return ProfileRequest(model=model, text=text, windows=3, window_length=24, **asked)


def units_run(folder: Path, **asked: Any) -> Run:
    """Its run, stored: with predicted and measured costs, unless something else is asked for."""
    return perform(units_request(folder, **{"units": True, "units_measured": True, **asked}))

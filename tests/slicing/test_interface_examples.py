"""The examples in the docstrings of the Python interface, run on a tiny model."""

from __future__ import annotations

import doctest
import warnings

import pytest
from conftest import byte_tokenizer, tiny_model

import slicing

NAMES = [name for name in slicing.__all__ if not name.endswith("Error")]
TEXT = "It is a truth universally acknowledged, that a tensor must want a basis. "
OTHER = "Call me a vector. Some years ago, never mind how long, I thought I would rotate a little. "


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "model": tiny_model("llama"),
        "tokenizer": byte_tokenizer(),
        "text": [TEXT * 30],
        "other": [OTHER * 30],
    }
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(slicing, name), name, globs=given)
    assert example.examples, f"slicing.{name} has no example"
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failed, _ = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example, out=told.append)
    assert not failed, "".join(told)

"""The page and the notebook on the Python interface: all of their code runs, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import byte_tokenizer, tiny_model
from pages import ROOT, to_run

import slicing

PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "docs" / "slicescope.ipynb"
BLOCKS = ("first", "objects", "texts", "compress", "studies")
"""The blocks of the page that are one program."""
SPEECH = "It is a truth universally acknowledged, that a tensor must want a basis. "
OTHER = "Call me a vector. Some years ago, never mind how long, I thought I would rotate a little. "

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of so small a model, with so little text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the model and the texts that the page names."""
    model = tmp_path / "HuggingFaceTB" / "SmolLM2-135M"
    tiny_model("llama", num_hidden_layers=4, max_position_embeddings=512).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    (tmp_path / "speech.txt").write_text(SPEECH * 400)
    (tmp_path / "other.txt").write_text(OTHER * 100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_names_every_verb():
    text = PAGE.read_text()
    for name in slicing.__all__:
        assert name in text or name in ("Evaluation", "Judgement", "Model", "Planned", "Profile", "Smaller")


def test_the_code_of_the_page_runs(place):
    code, names = to_run(PAGE.read_text()), {}
    assert {*code} == {*BLOCKS, "load"}  # the last is run by tests/test_docs.py
    for block in BLOCKS:
        exec(compile(code[block], f"python.md, {block}", "exec"), names)
    assert {"profile.html", "study.html", "smaller", "healed"} <= {each.name for each in place.iterdir()}
    for folder in ("smaller", "healed"):
        assert slicing.load(folder, device="cpu", progress=False).parameters < names["model"].parameters
    assert names["shorter"].result.smaller is not None
    assert [each.name for each in names["study"].measurements].count("constant") == 2


def test_the_notebook_is_short_whole_and_without_results():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum(len(cell.source.splitlines()) for cell in code) <= 35


def test_the_notebook_runs(place):
    """Its first cell says which model and texts; all others are run as they are."""
    settings, *cells = [
        cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"
    ]
    names: dict[str, Any] = {}
    exec(settings.source, names)
    assert names["MODEL"] == names["TEXT"] == "demo"
    assert settings.metadata.tags == ["parameters"]
    names |= {"MODEL": "HuggingFaceTB/SmolLM2-135M", "TEXT": "speech.txt", "EVALUATION": "other.txt"}
    names |= {"WINDOWS": 16, "LENGTH": 64}
    for number, cell in enumerate(cells, 2):
        *_, last = cell.source.splitlines()
        exec(compile(cell.source, f"cell {number}", "exec"), names)
        if last.isidentifier() and last != "model":  # a notebook shows it
            assert "<table" in names[last]._repr_html_()
    assert {"smaller", "study.html"} <= {each.name for each in place.iterdir()}

"""What the pages say can be clicked, copied and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from cli_page import cli_page, written_page
from conftest import byte_tokenizer, tiny_model
from pages import PAGES, ROOT, anchors, blocks, commands, commands_of, links, parse, spans, to_run
from test_python_docs import BLOCKS

from analysis.profile import profile_blocks
from slicing.budget import Budget
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.steps import STEPS
from slicing.store import save_sliced
from slicing.studies.files import read_study
from slicing.studies.recipe import Recipe
from slicing.studies.run import make_smaller
from slicing.studies.study import recipes
from slicing.view import ModelView

DOCS = ROOT / "docs"
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
USERS = [name for name in NAMES if name != "CHANGELOG.md"]
"""Pages that say what is so now."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# What can be clicked


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for link in links(text_of(name)):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name}: {link}"


def test_links_are_seen_and_those_in_code_are_none():
    page = "[it](a.md#b) ![that](c.png) `[no](d.md)`\n```\n[no](e.md)\n```\n# A `b`: c-d 25 %\n"
    assert links(page) == ["a.md#b", "c.png"]
    assert anchors(page) == {"a-b-c-d-25"}


def test_readme_is_short_and_leads_to_every_page():
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= 130
    reached, new = {"README.md"}, {"README.md"}
    while new:
        found = {
            ((ROOT / page).parent / link.partition("#")[0]).resolve()
            for page in new
            for link in links(text_of(page))
            if ".md" in link and "://" not in link
        }
        new = {path.relative_to(ROOT).as_posix() for path in found} - reached
        reached |= new
    assert {f"docs/{path.name}" for path in DOCS.glob("*.md")} <= reached


def test_the_site_has_every_page():
    listed = set(re.findall(r"[\w/]+\.md", text_of("mkdocs.yml").partition("\nnav:")[2]))
    assert listed == {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} | {
        f"docs/{path.name}" for path in DOCS.glob("*.md")
    }


# What can be copied


@pytest.mark.parametrize("name", USERS)
def test_commands_are_commands(name):
    text = text_of(name)
    for words in commands(text):
        parse(words)
    for words in spans(text):
        if "--help" not in words:  # which would print it
            parse(words, whole=False)


@pytest.mark.parametrize("name", USERS)
def test_recipes_in_commands_are_recipes(name):
    for words in commands(text_of(name)):
        given = parse(words)
        if given.get("recipes"):
            recipes(*given["recipes"].replace("\n", " ").split(";"))
        if given.get("recipe"):
            Recipe.parse(given["recipe"])


def test_wrong_commands_are_seen():
    for wrong in ("slicescope slize", "slicescope plan --targt 1", "slicescope remove --blocks 4"):
        (words,) = commands_of(wrong)
        with pytest.raises(Exception, match=r"(?i)no such|missing|is neither|did you mean|unknown"):
            parse(words)
    whole = (
        'A=1 slicescope study contest --recipes \\\n  "slice(constant);\n slice(dynamic)"  # so\nmake it\n'
    )
    (words,) = commands_of(whole)
    assert parse(words)["recipes"] == "slice(constant);\n slice(dynamic)"


@pytest.mark.parametrize("name", USERS)
def test_python_compiles_and_study_files_are_read(name, tmp_path):
    for block in blocks(text_of(name)):
        if block.language == "python":
            compile(block.text, f"{name}:{block.line}", "exec")
        if block.language == "toml" and "recipes" in block.text:
            (tmp_path / "study.toml").write_text(block.text)
            assert read_study(tmp_path / "study.toml").recipes


def test_the_commands_are_those_of_the_program():
    assert written_page() == cli_page(), "run: python tests/cli_page.py --write"


def test_the_command_page_is_the_same_at_every_width():
    """It is written on any terminal, so no width may be in it."""
    script = "import sys; sys.path.insert(0, 'tests'); import cli_page; sys.stdout.write(cli_page.cli_page())"
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={"COLUMNS": width, "PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for width in ("40", "200")
    }
    assert told == {written_page()}


# What can be trusted


def test_the_results_of_readme_are_among_the_results():
    results = text_of("docs/results.md")
    rows = [line for line in text_of("README.md").splitlines() if re.match(r"\| [1-9]0 % \|", line)]
    assert len(rows) == 3
    assert all(row in results for row in rows)


@pytest.mark.parametrize("folder", ["docs", "app", "slicing", "analysis"])
def test_a_large_loss_never_sounds_good(folder):
    """What is left of the baseline's loss is the excess loss, of which less is better."""
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".md", ".py", ".js"):
            assert not re.search(
                r"loss(es)?[ -]kept|kept loss", path.read_text(encoding="utf-8"), re.IGNORECASE
            ), path


# What can be run


@pytest.fixture
def model():
    return tiny_model("llama", num_hidden_layers=6)


def test_the_example_of_a_method_is_a_method(model, tmp_path):
    source = to_run(text_of("docs/internals.md"))["a new method"]
    assert len(source.splitlines()) <= 40
    (tmp_path / "spaced.py").write_text(source)
    spec = spec_from_file_location("slicing.steps.spaced", tmp_path / "spaced.py")
    assert spec is not None
    assert spec.loader is not None
    windows = torch.randint(3, 300, (8, 16), generator=torch.Generator().manual_seed(1))
    try:
        spec.loader.exec_module(module_from_spec(spec))
        profile = profile_blocks(model, windows, model_label="", text_label="")
        view = ModelView(model, windows, profile, profile_windows=8)
        made = make_smaller(
            Recipe.parse("spaced(distance=3, repair=writers)"), Budget.parse("blocks=2"), view
        ).made
        assert made.layout is not None
        first, second = made.layout.removed
        assert second - first >= 3
        assert len(made.model.model.layers) == 4
        alone = make_smaller(Recipe.parse("spaced(distance=1)"), Budget.parse("blocks=2"), view).made
        shortgpt = make_smaller(Recipe.parse("shortgpt"), Budget.parse("blocks=2"), view).made
        assert alone.layout == shortgpt.layout
    finally:
        STEPS.pop("spaced", None)


def test_the_example_of_loading_runs(model, tmp_path, monkeypatch, capsys):
    windows = torch.randint(3, 300, (4, 16), generator=torch.Generator().manual_seed(1))
    schedule = SlicingSchedule(hidden_size=32, widths=(24,) * 6 + (32,), embedding="untied")
    sliced = slice_model(model, schedule, windows)
    save_sliced(sliced, byte_tokenizer(), tmp_path / "sliced", made_from="tiny", calibration="test")
    monkeypatch.chdir(tmp_path)
    exec(compile(to_run(text_of("docs/python.md"))["load"], "python.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_marked_block_is_run_by_a_test():
    marked = {name for page in NAMES for name in to_run(text_of(page))}
    assert marked == {"a new method", "load", *BLOCKS}


def test_makefile_has_the_commands_that_pages_name():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    said = {
        words[1]
        for name in USERS
        for line in re.findall(r"`(make [a-z-]+)`|^(make [a-z-]+)", text_of(name), re.MULTILINE)
        for words in (shlex.split(line[0] or line[1]),)
    }
    assert said <= targets

"""The rooms and which way their doors open, read off the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "slicing", "app")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
MAY_IMPORT = {
    "analysis": {"analysis"},
    "slicing": {"analysis", "slicing"},
    "app": {"analysis", "slicing", "app"},
}
CALLED_ONLY_IN = {
    "from_pretrained": {
        "analysis/sources/configuration.py",
        "analysis/sources/opening.py",
        "slicing/store.py",
    },
    "load_dataset": {"analysis/sources/hub_text.py"},
}


def imports(path: Path) -> Iterator[str]:
    """The top-level names of all imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The modelling files travel with the weights, into a package of another name.
            assert node.level == 0 or path.name.startswith("modeling_"), f"{path} imports relatively"
            yield str(node.module).partition(".")[0]


def calls(path: Path) -> set[str]:
    functions = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in functions}


@pytest.mark.parametrize("name", NAMES)
def test_doors_open_one_way(name):
    room = name.partition("/")[0]
    assert set(imports(ROOT / name)) & set(ROOMS) <= MAY_IMPORT[room]


@pytest.mark.parametrize("name", NAMES)
def test_faces_stay_in_the_app(name):
    found = set(imports(ROOT / name))
    assert "streamlit" not in found or name.startswith("app/")
    assert "plotly" not in found or name.startswith("app/figures/")


@pytest.mark.parametrize(("function", "homes"), CALLED_ONLY_IN.items())
def test_outside_things_are_opened_in_one_place(function, homes):
    assert {name for name in NAMES if function in calls(ROOT / name)} == homes


WIDE = {"float64", "double", "complex128"}


def widening(source: str) -> list[str]:
    """The calls of a source text that turn a tensor to fp64 by hand, whatever device it is on."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        said = [*node.args, *(each.value for each in node.keywords)]
        named = {each.attr for each in said if isinstance(each, ast.Attribute)}
        if (node.func.attr in ("to", "type", "mean", "sum") and named & WIDE) or node.func.attr in WIDE:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_widened_in_one_place(name):
    """Some devices have no fp64: ``analysis.device.widen`` moves a tensor first."""
    assert not widening((ROOT / name).read_text()) or name == "analysis/device.py"


def test_every_way_to_widen_by_hand_is_seen():
    for written in (
        "states.cpu().double()",
        "states.double().cpu()",
        'states.to("cpu", torch.float64)',
        "states.to(home, dtype=torch.double)",
        "states.type(torch.float64)",
        "states.mean(dim=1, dtype=torch.float64)",
    ):
        assert widening(written)
    assert not widening("torch.zeros(3, dtype=torch.float64) + values.astype(np.float64)")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse((ROOT / name).read_text()))
    assert Path(name).stem not in {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize("name", ["analysis/shape.py", "slicing/plan.py", "slicing/schedule.py"])
def test_planning_knows_no_torch(name):
    assert not {"torch", "transformers"} & set(imports(ROOT / name))


def test_core_runs_without_the_web():
    script = "import sys, slicing.runs; print({'streamlit', 'plotly'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"

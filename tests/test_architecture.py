"""The rooms and which way their doors open, read off the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from analysis.scores import SCORES
from slicing.steps import STEPS
from slicing.studies.results import Request, Result

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


def imports(path: Path, for_types: bool = True) -> Iterator[str]:
    """The top-level names of all imports, those inside functions too.

    ``for_types``: those too that Python never carries out, and that only name types in annotations.
    """
    tree = ast.parse(path.read_text())
    named: set[ast.AST] = set()
    if not for_types:
        asked = [each for each in ast.walk(tree) if isinstance(each, ast.If)]
        named = {
            node
            for each in asked
            if getattr(each.test, "id", "") == "TYPE_CHECKING"
            for part in each.body
            for node in ast.walk(part)
        }
    for node in ast.walk(tree):
        if node in named:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The modelling files travel with the weights, into a package of another name.
            assert node.level == 0 or path.name.startswith("modeling_"), f"{path} imports relatively"
            yield str(node.module).partition(".")[0]


def calls(path: Path) -> set[str]:
    functions = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in functions}


def test_doors_open_one_way():
    rooms = {name: set(imports(ROOT / name)) & set(ROOMS) for name in NAMES}
    assert not {name: found for name, found in rooms.items() if found - MAY_IMPORT[name.partition("/")[0]]}


def test_faces_stay_in_the_app():
    found = {name: set(imports(ROOT / name, for_types=False)) for name in NAMES}
    assert not [name for name in NAMES if "streamlit" in found[name] and not name.startswith("app/")]
    assert not [name for name in NAMES if "plotly" in found[name] and not name.startswith("app/figures/")]


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


def test_tensors_are_widened_in_one_place():
    """Some devices have no fp64: ``analysis.device.widen`` moves a tensor first."""
    assert [name for name in NAMES if widening((ROOT / name).read_text())] == ["analysis/device.py"]


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


def test_every_file_says_what_it_is_for():
    assert not [name for name in NAMES if not ast.get_docstring(ast.parse((ROOT / name).read_text()))]
    assert not {path.stem for path in FILES} & {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize(
    "name",
    ["analysis/shape.py", "slicing/budget.py", "slicing/plans.py", "slicing/schedule.py", "slicing/wish.py"],
)
def test_planning_knows_no_torch(name):
    assert not {"torch", "transformers"} & set(imports(ROOT / name))


def test_core_runs_without_the_web():
    script = "import sys, slicing.studies.run; print({'streamlit', 'plotly'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


# Inside slicing: study -> steps -> the rest

ON_TOP = {"slicing/cluster.py", "slicing/library.py", "slicing/preview.py"}
"""They stand on studies, in no folder of their own."""
KNOWN_STEPS = {"base", "inner", "removal", "slice"}
"""Of ``slicing.steps``, what is no single method that others choose from."""


def modules(path: Path) -> Iterator[str]:
    """The whole names of all modules that are imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_studies_know_steps_and_steps_know_the_rest():
    above = ("slicing/studies/", "slicing/interface/")
    for name in NAMES:
        if not name.startswith("slicing/") or name.startswith(above) or name in ON_TOP:
            continue
        found = [
            each for each in modules(ROOT / name) if each.startswith(("slicing.studies", "slicing.steps"))
        ]
        allowed = ("slicing.steps",) if name.startswith("slicing/steps/") else ()
        assert not [each for each in found if not each.startswith(allowed)], name


TOLD_APART_BY_KIND = {
    *(each.__name__ for each in STEPS.values()),
    *("Step", "Removal", "Recipe", "Request", "Calibrated", "Judged", "Measurement"),
    *(each.__name__ for union in (Request, Result) for each in get_args(get_args(union)[0])),
}


def told_apart(source: str) -> set[str]:
    """The classes of requests, recipes and results that a source text asks ``isinstance`` about."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            kinds = [each for each in ast.walk(node.args[1]) if isinstance(each, ast.Name | ast.Attribute)]
            found |= {getattr(each, "id", "") or getattr(each, "attr", "") for each in kinds}
    return found & TOLD_APART_BY_KIND


def test_requests_recipes_and_results_are_told_apart_by_their_kind():
    told = {name: told_apart((ROOT / name).read_text()) for name in NAMES}
    assert not {name: found for name, found in told.items() if found}


def test_every_way_to_ask_for_a_class_is_seen():
    assert told_apart("isinstance(it, Trial)") == told_apart("isinstance(it, requests.Trial)") == {"Trial"}
    assert told_apart("isinstance(it, int | StudyResult)") == {"StudyResult"}
    assert told_apart("isinstance(it, (Slice, str))") == {"Slice"}
    assert not told_apart("isinstance(it, Layout)")


METHODS = {name for name in STEPS if name != "slice"} - set(SCORES)
"""The names of methods, but those that are names of scores too."""


def methods_named(source: str) -> set[str]:
    """The methods that a source text knows by name: one that it compares or looks up, or a module of one.

    A line of several words, such as a recipe, an example or a help text, is no name; nor are the default of
    an argument, a constant in capitals, and what such a tuple lists.
    """
    tree = ast.parse(source)
    defaults: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            defaults |= {*node.defaults, *filter(None, node.kw_defaults)}
        if isinstance(node, ast.Assign) and all(getattr(each, "id", "a").isupper() for each in node.targets):
            listed = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            defaults |= {*listed}
    found = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in METHODS and node not in defaults
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [f"{getattr(node, 'module', '')}.{alias.name}".split(".") for alias in node.names]
            found |= {each[2] for each in names if each[:2] == ["slicing", "steps"] and len(each) > 3}
    return found - KNOWN_STEPS


def test_no_method_is_known_by_name_outside_its_file():
    others = [name for name in NAMES if not name.startswith("slicing/steps/")]
    named = {name: methods_named((ROOT / name).read_text()) for name in others}
    earlier = {"slicing/studies/earlier.py", "slicing/studies/former.py"}  # which read old names
    assert {name for name, found in named.items() if found} <= earlier


def test_every_way_to_name_a_method_is_seen():
    assert methods_named('step.name == "sleb"') == methods_named('{"sleb": 1}') == {"sleb"}
    assert methods_named("from slicing.steps.sleb import Sleb") == {"sleb"}
    assert not methods_named('def f(method="sleb"): ...')
    assert not methods_named('MARKED = "sleb"')
    assert not methods_named('help("as in sleb(share=0.5)")')
    assert not methods_named("from slicing.steps.base import Step")
    assert not methods_named("from slicing.steps import STEPS")

"""The list of everything that a recipe can be written with: steps, allocations, scores, bases and repairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from app.cli.terminal import out


def _print_methods(wanted: bool) -> None:
    if not wanted:
        return
    from analysis.scores import SCORES
    from slicing.allocation import ALLOCATIONS
    from slicing.basis import BASES
    from slicing.repairs import REPAIRS
    from slicing.steps import STEPS
    from slicing.steps.base import Step

    out.print("Steps, by their names in a recipe:", style="bold")
    for name, step in sorted(STEPS.items()):
        own = _settings(step, but=Step.model_fields)
        shares = ["share=1"] if step.axis == "blocks" else []
        repairs = [f"repair={'|'.join(('none', *step.repairs))}"] if step.repairs else []
        _tell(name, step.title, step.source, [*own, *shares, *repairs])
        if step.known_issue:
            _line(f"Known issue: {step.known_issue}")
    out.print("Allocations, in 'slice(NAME)':", style="bold")
    for name, rule in sorted(ALLOCATIONS.items()):
        _tell(name, rule.title, rule.source, _settings(rule))
    out.print("Scores, in 'slice(dynamic, NAME)':", style="bold")
    for name, score in SCORES.items():
        _tell(name, score.title, score.source)
        _line(score.description)
        if score.known_issue:
            _line(f"Known issue: {score.known_issue}")
    out.print("Bases, as in 'slice(constant, basis=NAME)':", style="bold")
    for name, basis in BASES.items():
        _tell(name, basis.title, basis.source)
        if basis.known_issue:
            _line(f"Known issue: {basis.known_issue}")
    out.print("Repairs, as in 'sleb(repair=NAME)':", style="bold")
    for name, repair in REPAIRS.items():
        _tell(name, repair.title)
    raise typer.Exit


MethodsOption = Annotated[
    bool,
    typer.Option(
        "--methods",
        callback=_print_methods,
        is_eager=True,
        help="List all steps, allocations, scores, bases and repairs, and end.",
    ),
]


def _tell(name: str, title: str, source: str = "", settings: Iterable[str] = ()) -> None:
    out.print(f"  {name}: {title}" + (f" ({source})" if source else ""), highlight=False, soft_wrap=True)
    if told := ", ".join(settings):
        _line(f"Settings: {told}")


def _line(text: str) -> None:
    out.print(f"      {text}", style="dim", highlight=False, soft_wrap=True)


def _settings(kind: Any, but: Iterable[str] = ()) -> list[str]:
    """The settings of a kind with their defaults, as a line writes them."""
    from slicing.studies.grammar import write_value

    found = []
    for name, field in kind.model_fields.items():
        usual = field.get_default(call_default_factory=True)
        if name not in but and not isinstance(usual, dict):
            found.append(name if field.is_required() or usual is None else f"{name}={write_value(usual)}")
    return found

"""The JSON of ``slicescope compare``, which scripts read: its form never changes, whatever happens inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli.terminal import plain

if TYPE_CHECKING:
    from analysis.shape import ModelShape
    from slicing.plans import Plan
    from slicing.studies.results import Measurement, Run, TextUsed
    from slicing.studies.study import Study
    from slicing.studies.verdicts import Comparison

_CALIBRATED = ("model", "calibration", "calibration_windows", "profile_windows", "window_length", "seed")
_JUDGED = ("prompt", "new_tokens", "lens", "speed_rounds", "tasks", "task_limit", "task_folder")


def comparison_json(run: Run, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Give a comparison as ``slicescope compare --json`` writes it.

    ``settings`` are those of the plan's allocation that were given, whether or not they are the usual ones.
    """
    from slicing.studies.verdicts import read_comparison

    assert run.request.kind == "study" and run.result.kind == "study"
    study, result = run.request, run.result
    shape = result.shape
    compared = read_comparison(study, result)
    measured = compared.measured
    planned = list(measured)[-2]
    if planned == "constant":
        title = plan.rule().title
        measured = {**measured, planned: measured[planned].model_copy(update={"title": title})}
    return {
        "key": run.key,
        "recipe": recipe_json(study, plan, settings),
        "warning": " ".join(study.warnings(shape) + result.profile.warnings()) or None,
        "evaluations": [_measurement(each, shape) for each in measured.values()],
        "differences": _differences(compared, planned),
        "calibration": _text(result.calibration),
        "evaluation": _text(result.evaluation),
        "environment": plain(run.environment),
        "seconds": run.seconds,
    }


def recipe_json(study: Study, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Write a study as the recipe of a comparison, in the form of slicescope 0.1."""
    step: Any = study.recipes[-1].steps[-1]
    asked, cut = plain(study), plain(plan)
    cut["span"] = cut.pop("blocks_per_basis")
    cut["settings"] = {
        name: list(value) if isinstance(value, tuple) else float(value) for name, value in settings.items()
    }
    precision = study.calibration_precision
    for text in (asked["calibration"], asked["evaluation"]):
        text.pop("label_column")  # it is of healing alone, which that version did not know
    return {
        **{name: asked[name] for name in _CALIBRATED},
        "method": "preview" if step.one_shot else "faithful",
        "repair": step.repair != "none",
        **{name: asked[name] for name in ("evaluation", "evaluation_windows")},
        "kind": "compare",
        "plan": {name: cut[name] for name in ("target", *(name for name in cut if name != "target"))},
        **{name: asked[name] for name in _JUDGED},
        **({"jitter": study.jitter} if study.jitter else {}),
        **({"calibration_precision": precision} if precision != "exact" else {}),
    }


def _text(used: TextUsed) -> dict[str, Any]:
    """Write a text, with the precision that it was read in where that is not exact."""
    return {name: said for name, said in plain(used).items() if (name, said) != ("precision", "exact")}


def _told(name: str, said: Any) -> bool:
    """Tell whether a field of a speed is there: those that came later are, on an accelerator alone."""
    return bool(said) or name not in ("at_once", "static_cache", "launch_bound")


def _measurement(each: Measurement, shape: ModelShape) -> dict[str, Any]:
    """Perplexity and sizes first."""
    schedule = each.schedule
    widths = schedule.widths if schedule else (shape.hidden_size,) * (shape.block_count + 1)
    return {
        "name": each.name,
        "title": each.title,
        "perplexity": each.evaluation.perplexity,
        "interval": each.evaluation.interval,
        "parameters": each.parameters,
        "bytes": each.bytes,
        "flops_per_token": each.flops_per_token,
        "mean_slice": each.mean_slice,
        "widths": list(widths),
        "embedding": schedule.embedding if schedule else None,
        "layout": each.layout and {"label": each.layout.label, **plain(each.layout)},
        "protocol": each.evaluation.protocol,
        "tokens_per_second": each.evaluation.tokens_per_second,
        "evaluation_seconds": each.evaluation.seconds,
        "evaluation_peak_memory": each.evaluation.peak_memory,
        "speed": each.speed and {name: said for name, said in plain(each.speed).items() if _told(name, said)},
        "repair": each.repair and {"kept": each.repair.kept, **plain(each.repair)},
        "other_perplexity": each.other and each.other.perplexity,
        "tasks": [plain(score) for score in each.tasks],
        "deciding_seconds": None,  # never told by a comparison
        "slicing_seconds": each.slicing_seconds,
        "slicing_peak_memory": each.slicing_peak_memory,
        "nll": list(each.evaluation.nll),
    }


def _differences(compared: Comparison, planned: str) -> list[dict[str, Any]]:
    """The same four pairs always, also where the plan is constant slicing, so that some say the same.

    What noise does to them is said where it was asked for.
    """
    pairs = (("dense", "constant"), ("dense", planned), ("constant", planned), ("constant-matched", planned))
    return [
        {
            **{name: value for name, value in plain(each).items() if name != "noise" or value is not None},
            "percent": each.percent,
            "percent_interval": each.percent_interval,
            "verdict": each.verdict,
        }
        for each in compared.paired(pairs)
    ]

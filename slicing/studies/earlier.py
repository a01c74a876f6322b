"""Reading what earlier versions of slicescope stored: nine kinds of recipes, now five kinds of requests.

Works on plain data, as JSON has it, before anything is checked. No other module knows the old forms.
"""

from __future__ import annotations

from typing import Any

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.schedule import without_middle
from slicing.studies import former
from slicing.studies.recipe import Recipe
from slicing.studies.study import Study

_PLAN = ("allocation", "settings", "score", "first_token", "max_fraction", "rounding", "embedding", "span")
_FORM = ("max_fraction", "rounding", "embedding")
_CALIBRATED = ("model", "calibration", "calibration_windows", "profile_windows", "window_length", "seed")
_JUDGED = (
    *_CALIBRATED,
    *("evaluation", "evaluation_windows", "other", "prompt", "new_tokens", "speed_rounds"),
    *("tasks", "task_limit", "task_folder"),
)
Plain = dict[str, Any]


def read_run(data: Plain) -> Plain:
    """Give the plain data of a run its form of today."""
    if "recipe" not in data or "request" in data:
        return data
    asked, found = data["recipe"], data.get("result")
    if not isinstance(asked, dict) or not isinstance(found, dict):
        return data
    rest = {name: value for name, value in data.items() if name not in ("recipe", "result")}
    request, result = read_request(asked), _result(found)
    if request is not asked and request.get("kind") == "study" and result.get("kind") == "study":
        request, result = _baseline_first(request, result)
    return {**rest, "format": 2, "request": request, "result": result}


def read_request(data: Any) -> Any:
    """Give the plain data of a recipe as it was stored the form of a request of today."""
    if not isinstance(data, dict):
        return data
    readers = {
        "slice": _compress_slice,
        "remove": _compress_remove,
        "search": _search,
        "trial": _trial,
        "compare": _comparison,
        "sweep": _sweep,
        "contest": _contest,
        "leaderboard": _leaderboard,
    }
    kind = str(data.get("kind"))
    known = kind in readers and "recipe" not in data and "recipes" not in data
    return readers[kind](data) if known else data


# Requests


def _compress_slice(old: Plain) -> Plain:
    plan = _dict(old.get("plan"))
    return {
        "kind": "compress",
        **_some(old, (*_CALIBRATED, "evaluation", "evaluation_windows")),
        "recipe": {"steps": [_slice(plan, old)]},
        "budget": {"measure": "mean_slice", "amount": plan.get("target", 0.25)},
    }


def _compress_remove(old: Plain) -> Plain:
    return {
        "kind": "compress",
        **_some(old, (*_CALIBRATED, "evaluation", "evaluation_windows")),
        "recipe": {"steps": [_removal(_dict(old.get("removal")), old)]},
        "budget": {"measure": "blocks", "amount": old.get("blocks", 4)},
    }


def _search(old: Plain) -> Plain:
    return {"kind": "search", **_some(old, (*_CALIBRATED, "plan", "windows"))}


def _trial(old: Plain) -> Plain:
    plan, removal = old.get("plan"), old.get("removal")
    steps = [_removal(removal, old)] if isinstance(removal, dict) else []
    steps += [_slice(plan, old)] if isinstance(plan, dict) else []
    found = {"kind": "trial", **_some(old, _JUDGED), "recipe": {"steps": steps}}
    return {**found, "budget": _budget(old, _dict(plan))} if steps else found


def _comparison(old: Plain) -> Plain:
    plan = _dict(old.get("plan"))
    constant, planned = _constant(plan, old), _slice(plan, old)
    recipes = [constant] if _same(constant, planned) else [constant, planned]
    return {
        "kind": "study",
        "new_tokens": 40,
        "speed_rounds": 5,
        **_some(old, (*_JUDGED, "lens", "jitter", "calibration_precision")),
        "recipes": [{"steps": [step]} for step in recipes],
        "budgets": [{"measure": "mean_slice", "amount": plan.get("target", 0.25)}],
        "seeds": [old.get("seed", 0)],
        "matched": True,
        "view": "comparison",
    }


def _sweep(old: Plain) -> Plain:
    plan = _dict(old.get("plan"))
    settings = _dict(plan.get("settings"))
    steps = [_constant(plan, old)]
    for base in old.get("bases", (0.0, 0.1, 0.2)):
        steps.append(_slice({**plan, "settings": {**settings, "base": base}}, old))
    return {
        "kind": "study",
        **_some(old, _JUDGED),
        "recipes": [{"steps": [step]} for step in steps],
        "budgets": [_mean_slice(target) for target in old.get("targets", (0.15, 0.25, 0.35))],
        "seeds": [old.get("seed", 0)],
        "view": "map",
    }


def _contest(old: Plain) -> Plain:
    plan = _dict(old.get("plan"))
    equal = old.get("equal", "parameters")
    return {
        "kind": "study",
        **_some(old, _JUDGED),
        "recipes": _entries(old, plan),
        "budgets": [_budget({**old, "equal": equal}, plan)],
        "seeds": old.get("seeds", (0, 1, 2)),
        "view": "ranking",
    }


def _leaderboard(old: Plain) -> Plain:
    return {
        "kind": "study",
        **_some(old, _JUDGED),
        "recipes": _entries(old, _dict(old.get("plan"))),
        "budgets": [{"measure": "parameters", "amount": size} for size in old.get("sizes", (0.1, 0.2, 0.3))],
        "seeds": old.get("seeds", (0,)),
        "view": "frontier",
    }


def _entries(old: Plain, plan: Plain) -> list[Plain]:
    """The recipes of a contest's entries, in their order."""
    entries = old.get("entries")
    if not isinstance(entries, list | tuple):
        raise PlanError("A contest of slicescope 0.1 needs a list of entries, but this one has none.")
    found = []
    for each in map(_dict, entries):
        asked = {**_some(plan, _FORM), **each}
        removal = each.get("removal")
        steps = [_removal(removal, old)] if isinstance(removal, dict) else []
        if not steps or steps[0]["share"] != 1.0:
            settings = _dict(each.get("settings"))
            if each.get("allocation") == "searched":  # one search served all seeds
                settings = {"draw": next(iter(old.get("seeds", (0,)))), **settings}
            asked = {"allocation": "constant", **asked, "settings": settings}
            steps.append(_slice(asked, {**old, "repair": each.get("repair", False)}))
        found.append({"steps": steps})
    return found


def _baseline_first(request: Plain, result: Plain) -> tuple[Plain, Plain]:
    """Put constant slicing, by which all were measured, first among the recipes, and each measurement where
    its trial now stands.
    """
    before = Study.model_validate(request)
    rest = {"measurements": result["measurements"], "matched": result.get("matched", [])}
    recipes = sorted(before.recipes, key=lambda recipe: not _is_baseline(recipe))  # the others stay in order
    study = before.model_copy(update={"recipes": tuple(recipes)})
    keys = [trial.key for trial in before.trials()]
    if isinstance(rest["measurements"], list | tuple) and len(rest["measurements"]) >= len(keys):
        known = dict(
            zip(keys, rest["measurements"], strict=False)
        )  # of a plan that was constant, one too many
        rest["measurements"] = [known[trial.key] for trial in study.trials()]
        rest["matched"] = rest["matched"] if study.matches() else []
    return study.model_dump(mode="json"), {**result, **rest}


def _is_baseline(recipe: Recipe) -> bool:
    return (
        recipe.line.split(",")[0] in ("slice(constant", "slice(constant)")
        and recipe.repaired == "none"
        and ("blocks_per_basis" not in recipe.line)
    )


def _slice(plan: Plain, old: Plain) -> Plain:
    """The step of a plan; what did not matter to it is what it usually is."""
    plain = without_middle(plan, "middle")
    settings = _dict(plain.get("settings", {"base": 0.1} if "allocation" not in plain else {}))
    step = {
        "step": "slice",
        **_some(plain, _PLAN),
        "settings": settings,
        "one_shot": old.get("method", "faithful") == "preview",
        "repair": "writers" if old.get("repair", False) else "none",
    }
    if "span" in step:
        step["blocks_per_basis"] = step.pop("span")
    return step


def _constant(plan: Plain, old: Plain) -> Plain:
    return _slice({**_some(plan, _FORM), "allocation": "constant"}, old)


def _removal(removal: Plain, old: Plain) -> Plain:
    method, closing = removal.get("method", "greedy"), removal.get("closing", "none")
    return {
        **_dict(removal.get("settings")),
        "step": former.METHODS.get(method, method),
        "share": removal.get("share", 1.0),
        "repair": former.REPAIRS.get(closing, closing),
        "windows": old.get("search_windows", 4),
    }


def _budget(old: Plain, plan: Plain) -> Plain:
    if old.get("fewer") is not None:
        return {"measure": "parameters", "amount": old["fewer"]}
    measure = "like_constant" if old.get("equal", "slice") == "parameters" else "mean_slice"
    return {"measure": measure, "amount": plan.get("target", 0.25)}


def _mean_slice(target: Any) -> Plain:
    return {"measure": "mean_slice", "amount": target}


def _same(constant: Plain, planned: Plain) -> bool:
    return planned.get("allocation") == "constant" and not planned.get("blocks_per_basis")


# Results


def _result(old: Plain) -> Plain:
    kind = old.get("kind")
    if kind in ("slice", "remove"):
        return _compressed(old)
    if kind == "trial" and "contestant" in old:
        return {"measurement" if name == "contestant" else name: value for name, value in old.items()}
    if kind in ("compare", "sweep", "contest", "leaderboard"):
        rest = ("profile", "shape", "calibration", "evaluation")
        return {"kind": "study", **_some(old, rest), **_measurements(old)}
    return old


def _measurements(old: Plain) -> Plain:
    found = old.get("contestants")
    if old["kind"] != "compare" or not isinstance(found, list | tuple):
        return {"measurements": found}
    # Of a comparison the last one was the baseline once more, at as many parameters as the planned model.
    last = [each for each in found if _dict(each).get("name") == "constant-matched"]
    planned = [each for each in found if each not in last]
    return {"measurements": planned, "matched": last if len(planned) > 2 else []}


def _compressed(old: Plain) -> Plain:
    """One form for what slicing and removal made."""
    names = (
        "profile",
        "shape",
        "not_sliceable",
        "schedule",
        "layout",
        "parameters",
        "dense_parameters",
        "plain",
    )
    more = ("discarded", "repair", "deciding_seconds", "seconds", "peak_memory", "calibration", "dense")
    found = {"kind": "compress", **_some(old, (*names, *more))}
    smaller = old.get("sliced") if old["kind"] == "slice" else old.get("reduced")
    found["smaller"] = smaller
    if old["kind"] == "slice":
        found["plain"] = False
        if isinstance(old.get("shape"), dict):
            found["dense_parameters"] = ModelShape.model_validate(old["shape"]).parameters
    return found


def _dict(data: Any) -> Plain:
    return data if isinstance(data, dict) else {}


def _some(data: Plain, names: tuple[str, ...]) -> Plain:
    return {name: data[name] for name in names if name in data}

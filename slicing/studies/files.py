"""Study files: a study in TOML, flat, in the words that the command line has for it.

    model = "demo"
    calibration = "demo"
    evaluation = "demo"
    budgets = { parameters = [0.1, 0.2] }
    recipes = ["slice(constant)", "sleb(repair=writers)"]

What a study has as usual may be left out. Knows nothing about who asks.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import tomli_w
from pydantic import ValidationError

from analysis.errors import PlanError, SlicescopeError, StorageError, TextError, one_line, unknown_name
from analysis.numbers import as_briefly
from analysis.sources.columns import MARK
from analysis.sources.model import ModelSource
from analysis.sources.presets import PRESETS, Role
from analysis.sources.text import TextSource
from analysis.storage import storage_errors
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.requests import MOST_REPETITIONS
from slicing.studies.store import BUNDLED
from slicing.studies.study import Study

READY = BUNDLED / "studies"
"""The folder of the study files that ship with slicescope."""
LARGEST = 1_000_000
"""Bytes of a study file, at most."""
TEXTS: dict[str, Role] = {
    "text": "calibration",
    "calibration": "calibration",
    "search_text": "calibration",
    "healing_text": "calibration",
    "evaluation": "evaluation",
    "other": "evaluation",
}
"""Fields of requests that name a text, and what the text is for, which chooses its usual split."""
_NOT_SAID = ("kind", "seed")
"""Fields of a study that its file does not have: the seed is the first of its seeds."""
_KEYS = (
    "model",
    "device",
    "dtype",
    *(name for name in Study.model_fields if name not in ("model", *_NOT_SAID)),
)
_LEAST = {
    **dict.fromkeys(("calibration_windows", "profile_windows", "evaluation_windows", "task_limit"), 1),
    "window_length": 2,
    **dict.fromkeys(("new_tokens", "speed_rounds", "jitter", "healing_tokens"), 0),
}
_MOST = {"speed_rounds": 1000, "jitter": MOST_REPETITIONS}
Plain = dict[str, Any]


# One argument


def model_line(source: ModelSource) -> str:
    """Write what ``ModelSource.parse`` reads as this source, on its device and in its dtype."""
    return (
        "demo"
        if source.kind == "demo"
        else source.location + (f"@{source.revision}" if source.revision else "")
    )


def text_line(source: TextSource, role: Role) -> str:
    """Write what ``TextSource.parse`` reads as this source, as far as one line can say it."""
    if source.kind == "demo":
        return "demo" if source.split == role else f"demo:{source.split}"
    column = f"{MARK}{source.column}" if source.column else ""
    column += f":{source.label_column}" if source.label_column else ""
    if source.kind == "file":
        return f"{source.location}{column}"
    for name in PRESETS:
        for said in (name, f"{name}:{source.split}"):
            with suppress(TextError):  # of a split that this preset does not know
                if TextSource.parse(said, role) == source:
                    return said
    config = f"/{source.config}" if source.config else ""
    revision = f"@{source.revision}" if source.revision else ""
    return f"{source.location}{config}{revision}:{source.split}{column}"


def usual_profile_windows(calibration_windows: int) -> int:
    """Tell how many of the calibration windows are profiled where nobody says it."""
    return min(8, calibration_windows)


# Writing


def write_study(study: Study) -> str:
    """Write the TOML that ``parse_study`` reads back as this study: what is as usual is left out."""
    found: Plain = {"model": model_line(study.model)}
    usual_model = ModelSource(kind="demo")
    found |= {
        name: value
        for name in ("device", "dtype")
        if (value := getattr(study.model, name)) != getattr(usual_model, name)
    }
    for name, field in Study.model_fields.items():
        value = getattr(study, name)
        usual = field.get_default(call_default_factory=True)
        if name == "profile_windows":
            usual = usual_profile_windows(study.calibration_windows)
        if name in ("model", *_NOT_SAID) or (value == usual and name != "budgets"):
            continue
        found[name] = _written(name, value)
    return "".join(f"{key} = {_toml(value)}\n" for key, value in found.items())


def _toml(value: Any) -> str:
    """A value in TOML on one line, but a list of several texts with a line for each."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, list):
        said = [_toml(each) for each in value]
        lines = len(said) > 1 and isinstance(value[0], str)
        return "[\n" + "".join(f"  {each},\n" for each in said) + "]" if lines else f"[{', '.join(said)}]"
    return tomli_w.dumps({"key": value}).removeprefix("key = ").rstrip("\n")


def _written(name: str, value: Any) -> Any:
    if name in TEXTS:
        return _text(value, TEXTS[name])
    if name in ("recipes", "redrawn"):
        return [each.line for each in value]
    if name == "budgets":
        return _budgets(value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _text(source: TextSource, role: Role) -> str | Plain:
    """The text in one line, or, where that cannot say it, all that is unusual of it."""
    plain = source.model_dump(mode="json", exclude_defaults=True)
    if source.kind == "file":
        return source.location if set(plain) == {"kind", "location"} else plain
    line = text_line(source, role)
    try:
        return line if TextSource.parse(line, role) == source else plain
    except TextError:
        return plain


def _budgets(budgets: Iterable[Budget]) -> Plain | list[str]:
    """Amounts by their measure; lines where the measures do not follow each other."""
    found: dict[str, list[float | int]] = {}
    for each in budgets:
        amount = int(each.amount) if each.amount.is_integer() else each.amount
        found.setdefault(each.measure, []).append(amount)
    grouped = [(measure, amount) for measure, amounts in found.items() for amount in amounts]
    in_order = grouped == [(each.measure, each.amount) for each in budgets]
    return found if in_order else [each.line for each in budgets]


# Reading


def find_study(name: str) -> Path:
    """Find the study file of this name: where it stands, or else among the ready ones (``StorageError``)."""
    path = Path(name)
    with suppress(OSError, ValueError):  # too long, a zero byte
        if path.exists():
            return path
        ready = READY / (path.name if path.suffix == ".toml" else f"{path.name}.toml")
        if str(path) == path.name and ready.is_file():
            return ready
    raise StorageError(
        f"There is no study file '{name}': give a file in TOML, or the name of a ready one: "
        f"{', '.join(ready_studies())}."
    )


def ready_studies() -> tuple[str, ...]:
    """The names of the study files that ship with slicescope."""
    return tuple(sorted(path.stem for path in READY.glob("*.toml")))


def read_study(path: Path) -> Study:
    """Read a study file; an error names the file, the key and what is allowed."""
    with storage_errors(path):
        if not path.is_file():
            raise StorageError(f"'{path}' is no file: give a study file in TOML.")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise StorageError(
            f"The study file '{path}' has more than {LARGEST:,} bytes, which is the most: name fewer recipes."
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise StorageError(
            f"The study file '{path}' is no text in UTF-8 (at byte {error.start}): save it as such."
        ) from None
    return parse_study(text, path.name)


def parse_study(text: str, name: str) -> Study:
    """Read a study of its TOML; an error names the file, the key and what is allowed."""
    file = _File(f"The study file '{name}'")
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        told = (
            one_line(error)
            if isinstance(error, tomllib.TOMLDecodeError)
            else "nested, or a number, beyond bounds"
        )
        raise StorageError(f"{file.name} is no TOML ({told}): correct it there.") from None
    return file.study(plain)


class _File:
    """Reads the keys of one study file, and names it in errors."""

    def __init__(self, name: str) -> None:
        self.name = name

    def study(self, plain: Plain) -> Study:
        """The study that the keys say."""
        for key in plain:
            if key not in _KEYS:
                self.wrong(unknown_name("key", key, _KEYS))
        if "recipes" not in plain:
            self.wrong(
                'It names no recipes; write a line such as recipes = ["slice(constant)", "slice(dynamic)"].'
            )
        fields = {key: value for key, value in plain.items() if key not in ("model", "device", "dtype")}
        fields["model"] = self.model(plain)
        for key in ("calibration", "evaluation", "other", "search_text", "healing_text"):
            if key in plain or key in ("calibration", "evaluation"):
                fields[key] = self.text(key, plain.get(key, "demo"))
        if "budgets" in plain:
            fields["budgets"] = self.budgets(plain["budgets"])
        for key in ("recipes", "redrawn"):
            if key in plain:
                fields[key] = self.recipes(key, plain[key])
        for key in (*_LEAST, "seeds"):
            if key in plain:
                self.check_bounds(key, plain[key])
        drawn = plain.get("calibration_windows", Study.model_fields["calibration_windows"].default)
        fields.setdefault("profile_windows", usual_profile_windows(drawn))
        try:
            return Study.model_validate_json(json.dumps(fields, default=str), strict=True)
        except ValidationError as error:
            self.unfit(error)
        except SlicescopeError as error:
            self.refused(error)

    def model(self, plain: Plain) -> Plain:
        """The model, with its device and its dtype."""
        said = {key: self.word(key, plain[key]) for key in ("device", "dtype") if key in plain}
        line = self.word("model", plain.get("model", "demo"))
        try:
            return ModelSource.parse(line, **said).model_dump()
        except SlicescopeError as error:
            self.refused(error)

    def text(self, key: str, said: Any) -> Plain:
        """A text, in one line or as a table of its fields."""
        line = "" if isinstance(said, dict) else self.word(key, said)
        try:
            if isinstance(said, dict):
                return TextSource.model_validate(said).model_dump()
            return TextSource.parse(line, TEXTS[key]).model_dump()
        except ValidationError as error:
            self.unfit(error, f"{key}.")
        except SlicescopeError as error:
            self.refused(error, f"The key '{key}': ")

    def budgets(self, said: Any) -> list[Plain]:
        """Budgets, as a table of amounts by measure or as lines."""
        lines = said
        if isinstance(said, dict):
            lines = []
            for measure, amounts in said.items():
                each = amounts if isinstance(amounts, list) else [amounts]
                if not each or not all(map(_is_number, each)):
                    self.wrong(
                        f"The budget '{measure}' needs numbers, as in [0.1, 0.2], but has {_shown(amounts)}."
                    )
                lines += [f"{measure}={as_briefly(amount)}" for amount in each]
        if not isinstance(lines, list) or not all(isinstance(each, str) for each in lines):
            self.wrong(
                f"The key 'budgets' cannot be {_shown(said)}: write a table such as "
                '{ parameters = [0.1, 0.2] }, or lines such as ["parameters=0.1"].'
            )
        try:
            return [Budget.parse(each).model_dump() for each in lines]
        except PlanError as error:
            self.refused(error)

    def recipes(self, key: str, said: Any) -> list[Plain]:
        """Recipes, each as its line."""
        if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
            self.wrong(f'The key \'{key}\' needs lines in quotes, as in ["slice(constant)", "sleb"].')
        found, where = [], "" if key == "recipes" else f" of '{key}'"
        for number, line in enumerate(said, 1):
            try:
                found.append(Recipe.parse(line).model_dump(mode="json"))
            except PlanError as error:
                self.refused(error, f"Recipe {number}{where}, '{line[:60]}': ")
        return found

    def check_bounds(self, key: str, said: Any) -> None:
        """Raise an error for numbers that no study has, as the command line does."""
        least, most = _LEAST.get(key), _MOST.get(key)
        each = said if isinstance(said, list) else [said]
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in each)
        if key == "seeds":
            if not (isinstance(said, list) and whole):
                self.wrong(f"The key 'seeds' cannot be {_shown(said)}: write whole numbers, as in [0, 1].")
            return
        bounds = f"a whole number from {least}" + (" on" if most is None else f" to {most}")
        fits = (
            whole and not isinstance(said, list) and said >= (least or 0) and (most is None or said <= most)
        )
        if not fits:
            self.wrong(f"The key '{key}' must be {bounds}, but is {_shown(said)}.")

    def word(self, key: str, said: Any) -> str:
        """A text in quotes."""
        if not isinstance(said, str):
            self.wrong(f"The key '{key}' cannot be {_shown(said)}: write a text in quotes, such as \"demo\".")
        return said

    def wrong(self, why: str) -> NoReturn:
        """Raise the error that says what is wrong in the file."""
        raise PlanError(f"{self.name}: {why}")

    def unfit(self, error: ValidationError, within: str = "") -> NoReturn:
        """Raise an error for the first key whose value is of another kind."""
        first = error.errors(include_url=False, include_context=False)[0]
        told = first["msg"].replace("Input should", "it should")
        key = f"{within}{first['loc'][0]}"
        self.wrong(f"The key '{key}' cannot be {_shown(first['input'])}: {told}.")

    def refused(self, error: SlicescopeError, where: str = "") -> NoReturn:
        """Raise an error again, with the name of the file in front."""
        raise type(error)(f"{self.name}: {where}{error}") from None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    with suppress(OverflowError):
        return math.isfinite(float(value))
    return False


def _shown(value: Any) -> str:
    """A value as TOML has it, as far as one line goes."""
    told = json.dumps(value, default=str, ensure_ascii=False)
    return told if len(told) <= 60 else f"{told[:57]}..."

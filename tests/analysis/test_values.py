"""Values go to JSON and back, and are known by their content; sentences stay sentences."""

from __future__ import annotations

import json
from typing import Self

import pytest
from pydantic import Field, ValidationError, model_validator

from analysis import errors
from analysis.errors import PlanError, StorageError, one_line, unknown_name, visible
from analysis.values import Value


class Width(Value):
    kept: int
    of: int = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kept > self.of:
            raise PlanError("Too wide: cut more.")
        return self


class Cut(Value):
    name: str
    width: Width
    settings: dict[str, float] = Field(default_factory=dict)


def test_value_comes_back_equal_and_with_its_key():
    cut = Cut(name="ü", width=Width(kept=3), settings={"b": 1.0, "a": 0.1})
    again = Cut.from_json(cut.to_json(), "test")
    assert (again, again.key) == (cut, cut.key)
    assert len(cut.key) == 12


def test_key_is_the_content_whatever_its_order():
    first = Cut(name="x", width=Width(kept=3), settings={"a": 1.0, "b": 2.0})
    second = Cut(settings={"b": 2.0, "a": 1.0}, width=Width(of=8, kept=3), name="x")
    assert first.key == second.key
    others = [{"name": "y"}, {"width": Width(kept=4)}, {"settings": {"a": 1.0}}]
    assert len({first.key, *(first.model_copy(update=change).key for change in others)}) == 4


def test_value_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Width(kept=3).kept = 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the whole file: Invalid JSON"),
        ("[]", "the whole file: Input should be an object"),
        (b"\xff\xfe", "the whole file: Invalid JSON"),
        ('{"name": "x"}', "width: Field required"),
        ('{"name": "x", "width": {"kept": "wide"}}', "width.kept: Input should be a valid integer"),
        ('{"name": "x", "width": {"kept": 1, "more": 2}}', "width.more: Extra inputs"),
        (
            '{"name": "x", "width": {"kept": 1}, "settings": {"a": NaN}}',
            "settings.a: Input should be",
        ),
        ('{"name": "x", "width": {"kept": 9}}', "(Too wide: cut more)"),
    ],
)
def test_what_is_no_such_value_is_one_sentence_that_names_the_place(text, said):
    with pytest.raises(StorageError) as error:
        Cut.from_json(text, "'cut.json'")
    message = str(error.value)
    assert message.startswith("'cut.json' is not a readable Cut (")
    assert said in message
    assert message.endswith("; restore it from a copy.")
    assert "\n" not in message
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("One thing.\nAnd another."), "One thing"),
        (ValueError("\n\n  Late.  \n"), "Late"),
        (ValueError("Failed for field 'x':\n    expected int"), "Failed for field 'x': expected int"),
        (ValueError("See above!."), "See above"),
        (ValueError(""), "ValueError"),
        (KeyError("rope"), "there is no entry 'rope'"),
    ],
)
def test_foreign_error_becomes_part_of_a_sentence(error, line):
    assert one_line(error) == line


def test_unknown_name_suggests_only_what_is_near():
    assert unknown_name("fruit", "aple", ["pear", "apple"]) == (
        "Unknown fruit 'aple'. Did you mean 'apple'? Known: apple, pear."
    )
    assert "mean" not in unknown_name("fruit", "xyz", ["pear", "apple"])


@pytest.mark.parametrize("given", ["x" * 5000, "word " * 2000, "9" * 100_000])
def test_an_error_that_quotes_much_is_told_briefly(given):
    told = str(PlanError(f"The name '{given}' is not known: give another."))
    assert len(told) <= 910
    assert told.startswith("The name '") and told.endswith("is not known: give another.")
    assert str(PlanError("Short: stay.")) == "Short: stay."


def test_half_characters_are_told():
    assert visible("a\udcff\x1b") == "a\\udcff\\x1b"


def test_every_error_has_the_exit_code_it_is_documented_with():
    family = {each for each in vars(errors).values() if hasattr(each, "exit_code")}
    assert len(family) == 9
    for each in family:
        line = next(line for line in str(errors.__doc__).splitlines() if each.__name__ in line.split())
        assert str(each.exit_code) in line.split(), each


def test_json_is_for_people_too():
    text = Cut(name="x", width=Width(kept=3)).to_json()
    assert list(json.loads(text)) == ["name", "width", "settings"]
    assert text.count("\n") > 3

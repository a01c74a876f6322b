"""The methods that decide which blocks go: a name for each, and one file.

A method is a frozen value; calling it with a survey of the model and a count gives the layout. Its fields
draw the controls in the app and go into the run.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, TypeVar

from pydantic import ValidationError

from analysis.errors import PlanError, unknown_name
from analysis.values import Value
from slicing.depth.layout import Layout
from slicing.depth.survey import Survey


class RemovalMethod(Value):
    """A way to decide which blocks go. Subclasses are listed in ``METHODS``."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    fault: ClassVar[str] = ""
    """What is known against it, or against its released code, in one sentence."""
    control: ClassVar[bool] = False
    """Whether it is there to be beaten."""
    variants: ClassVar[tuple[str, ...]] = ("",)
    """The settings with which it takes part in a leaderboard, as entries write them: ``merge=mean``."""

    tries: ClassVar[bool] = False
    """Whether it runs smaller models to choose, which takes far longer than looking at the dense one."""

    @abstractmethod
    def layout(self, survey: Survey, count: int) -> Layout:
        """The model without ``count`` of its blocks, 1 <= count < L."""

    def most(self, blocks: int) -> int:
        """How many of so many blocks can go at most."""
        return blocks - 1

    def check(self, blocks: int, count: int) -> None:
        """Raise ``PlanError`` where it cannot take away ``count`` of so many ``blocks``."""
        most = self.most(blocks)
        if not 0 <= count <= most:
            raise PlanError(
                f"The method '{self.name}' can take away from 0 to {most} of the {blocks} blocks, but "
                f"{count} are to go: choose a number between, or another method."
            )

    def __call__(self, survey: Survey, count: int) -> Layout:
        """The layout with ``count`` blocks fewer (``PlanError`` unless so many can go)."""
        self.check(survey.blocks, count)
        return self.layout(survey, count) if count else Layout.whole(survey.blocks)


MethodType = TypeVar("MethodType", bound=RemovalMethod)
METHODS: dict[str, type[RemovalMethod]] = {}


def method(cls: type[MethodType]) -> type[MethodType]:
    """Register a method: it then appears in the app, the command line, the leaderboard and the tests."""
    if cls.name in METHODS:
        raise ValueError(f"The method '{cls.name}' is registered twice.")
    METHODS[cls.name] = cls
    return cls


def find_method(name: str) -> type[RemovalMethod]:
    """The registered method of this name, or a ``PlanError`` that suggests the nearest."""
    if name not in METHODS:
        raise PlanError(unknown_name("method of removal", name, METHODS))
    return METHODS[name]


def make_method(name: str, settings: dict[str, float | str]) -> RemovalMethod:
    """The method with its settings (``PlanError`` when it does not take them)."""
    kind = find_method(name)
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        fields = ", ".join(kind.model_fields) or "none"
        said = error.errors()[0]["msg"]
        raise PlanError(
            f"The method '{name}' does not take the settings {settings} ({said}); its settings are: {fields}."
        ) from None

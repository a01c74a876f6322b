"""From what a verb was given to a run: its request checked, carried out and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from analysis.errors import PlanError, UnsupportedError, unknown_name
from analysis.storage import runs_in
from analysis.values import Value, first_fault
from slicing.interface.home import Home
from slicing.interface.models import Given, given
from slicing.interface.telling import ProgressLike, telling, warn
from slicing.interface.texts import Texts
from slicing.store import open_model
from slicing.studies.results import Request, Run
from slicing.studies.results import warnings as told_of
from slicing.studies.run import Opener, perform
from slicing.wish import read_share

Kind = TypeVar("Kind", bound=Value)


def checked(kind: type[Kind], make: Callable[..., Kind] | None = None, /, **fields: Any) -> Kind:
    """Make a value of the fields that a user gave, or have it made by ``make``; ``None`` is not given.

    Raises ``PlanError`` for a field that is not known, or of another type.
    """
    said = {name: value for name, value in fields.items() if value is not None}
    if unknown := [name for name in said if name not in kind.model_fields]:
        raise PlanError(unknown_name("setting", unknown[0], kind.model_fields))
    try:
        return (make or kind)(**said)
    except ValidationError as error:
        raise PlanError(
            f"A setting does not fit ({first_fault(error, 'all of them')}): correct it."
        ) from None


def share_of(fewer: Any) -> float:
    """Read the share of the parameters that goes: 0.2, or ``20%`` (``PlanError``)."""
    if isinstance(fewer, str):
        return read_share("share of the parameters (fewer)", fewer)
    if isinstance(fewer, bool) or not isinstance(fewer, int | float):
        raise PlanError(
            f"The share of the parameters (fewer) must be a share such as 0.2; got {fewer!r}: write it so."
        )
    return float(fewer)


class Asked:
    """What a verb was given: a model, where its runs go, and who reads its texts."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        store: bool = True,
        window_length: int | None = None,
        home: Home | None = None,
    ) -> None:
        if not isinstance(store, bool):
            raise PlanError(
                f"A run is stored or not (True or False), but got store={store!r}: give one of them."
            )
        self.model: Given = given(model, tokenizer, device, dtype)
        self.home = home or Home(store and self.model.stored)
        self.texts = Texts(window_length, self.home.folder)

    def carried_out(self, request: Request, progress: ProgressLike) -> Run:
        """Carry a request out and keep the run; what spoils or flatters the result is warned of."""
        if request.changes_weights:
            self.model.require_plain_weights()
        shape = None
        with suppress(UnsupportedError):  # which says so itself where it is in the way
            shape = self.model.shape()
        warn(request.warnings(shape))
        opened = self.model.opened
        opener: Opener = open_model if opened is None else lambda _: opened
        with telling(progress) as listen, self.model.borrowed(), runs_in(self.home.folder):
            run = perform(request, listen, opener)
        warn(told_of(run.result))
        return run

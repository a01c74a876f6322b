"""What the steps that heal have in common: they make nothing smaller, and train what is left on more text.

No method itself.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from analysis.anatomy import why_not_sliceable
from analysis.device import PeakMemory, free_memory
from analysis.errors import PlanError
from analysis.evaluate import batch_tokens, check_windows
from analysis.needs import refuse_unless_it_fits
from analysis.values import key_of
from slicing.heal.limits import Limits
from slicing.heal.need import training_need
from slicing.heal.record import Healed
from slicing.heal.resume import Resume
from slicing.heal.student import Trained, merged, student_of, trainable, training_precision
from slicing.heal.training import Loss, Settings, train
from slicing.steps.base import Cost, Made, Step

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.needs import MemoryNeed
    from analysis.shape import ModelShape
    from slicing.budget import Budget
    from slicing.plan import Slicing
    from slicing.view import ModelView

HELD = 8
"""Windows of the healing text that no training sees: they judge it, and end it."""
PACE = 100_000.0
"""Tokens through the decoder in a minute, for a time left: of the demo model on two cores."""


class Healing(Step):
    """Train what the steps before have left, and keep that where it loses less on held-out windows."""

    axis = "weights"

    tokens: int = Field(default=200_000, ge=1, title="Tokens to train on")
    """Of the healing text, each counted as often as it is seen."""
    minutes: float = Field(default=0.0, ge=0.0, title="Minutes instead")
    """Train for so many minutes, however many tokens that is. 0: the tokens count."""
    rate: float = Field(default=1e-4, gt=0.0, title="Learning rate")
    """The largest; it rises to this and falls by a cosine."""

    @model_validator(mode="after")
    def _check_healing(self) -> Self:
        if self.share != 1.0:
            raise PlanError(f"'{self.name}' makes nothing smaller: leave its share out.")
        return self

    @property
    def limits(self) -> Limits:
        """How long it trains."""
        return Limits(self.tokens, 60.0 * self.minutes)

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """It has no such settings."""
        return self

    def preview(self) -> None:
        """Searches judge what it heals without it."""

    def cost(self, tokens: int, window_length: int) -> Cost:
        """The passes of the training: forwards and backwards, and the dense model beside."""
        trained = self.minutes * PACE if self.minutes else 4.0 * self.tokens
        return (("Healing", trained + 10.0 * HELD * window_length),)

    @abstractmethod
    def trained(self, shape: ModelShape, size: int) -> int:
        """How many numbers are in training at a time, of a model of ``size`` that was one of this shape."""

    def memory_need(
        self, shape: ModelShape, budget: Budget, tokens: int, batch: int, itemsize: int
    ) -> MemoryNeed | None:
        """A copy in fp32, its gradients and moments, and the graph of a quarter of a batch."""
        size = budget.parameters(shape) or shape.parameters
        return training_need(shape, size, self.trained(shape, size), max(1, batch // 4), itemsize)

    def decide(self, view: ModelView, budget: Budget, made: Made) -> None:
        """Nothing is to be decided."""

    def apply(self, view: ModelView, plan: None, made: Made) -> Made:
        """Train, and keep what is better."""
        windows = view.healing_windows()
        check_windows(view.model, windows)
        if not why_not_sliceable(view.model.config):  # the shape of others is not known
            size = sum(each.numel() for each in made.model.parameters())
            part = max(windows.shape[1], batch_tokens(view.model.device) // 4)
            need = training_need(
                view.shape, size, self.trained(view.shape, size), part, view.model.dtype.itemsize
            )
            refuse_unless_it_fits("Training what is left", view.model, need)
        if len(windows) <= HELD:
            raise PlanError(
                f"The healing text has {len(windows):,} windows of {windows.shape[1]:,} tokens that nothing "
                f"else sees, and {HELD} of them are held out: give more text, or choose shorter windows."
            )
        key = key_of([view.key, made.line, self.key])
        resume = Resume(key) if view.key else None
        with PeakMemory(view.model.device) as peak:
            model, told = self.healed(view, made, windows[HELD:], windows[:HELD], resume)
        if resume:
            resume.clear()
        free_memory()
        if not told.kept:
            model = made.model
        return replace(
            made,
            model=model,
            sliced=made.sliced and replace(made.sliced, model=model),
            healed=(*made.healed, told),
            seconds=made.seconds + told.seconds,
            peak_memory=max(made.peak_memory, peak.bytes),
        )

    @abstractmethod
    def healed(
        self, view: ModelView, made: Made, windows: Tensor, held: Tensor, resume: Resume | None
    ) -> tuple[Any, Healed]:
        """Give a trained copy of what was made, and what that did."""


class Training(Healing):
    """One that trains the whole model at once by a loss on its outputs."""

    train: Trained = Field(default="all", title="What is trained")
    """All numbers, or adapters of low rank (LoRA), added in at the end, which need far less memory."""
    rank: int = Field(default=32, ge=1, title="Rank of the adapters")
    """r; with adapters alone."""
    alpha: float = Field(default=10.0, gt=0.0, title="Weight of the adapters")
    """alpha, of which (alpha / r) multiplies what they add; with adapters alone."""
    batch: int = Field(default=4, ge=1, title="Windows in a step")
    """Of the optimiser."""

    def trained(self, shape: ModelShape, size: int) -> int:
        """All, or about r (M + N) of every linear map (M, N)."""
        if self.train == "all":
            return size
        each = (s.reader_rows + s.writer_columns + 2 * shape.hidden_size for s in shape.sublayers)
        return self.rank * sum(each)

    @abstractmethod
    def loss(self, view: ModelView, made: Made, student: Any) -> Loss:
        """Give the loss that is trained for, of the ``student`` that it will be asked about."""

    def healed(
        self, view: ModelView, made: Made, windows: Tensor, held: Tensor, resume: Resume | None
    ) -> tuple[Any, Healed]:
        """Train a copy in fp32."""
        device, dtype = view.model.device, view.model.dtype
        student = student_of(made.model)
        loss = self.loss(view, made, student)
        trainable(student, self.train, self.rank, self.alpha)
        settings = Settings(self.name, self.rate, self.batch, view.seed, training_precision(device))

        def tell(used: float) -> None:
            view.progress("Healing", round(1000 * used), 1000)

        told = train(student, loss, windows, held, self.limits, settings, tell, resume)
        return merged(student, dtype), told

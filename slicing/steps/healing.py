"""What the steps that heal have in common: they make nothing smaller, and train what is left on more text.

No method itself.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from analysis.anatomy import why_not_sliceable
from analysis.device import PeakMemory, batch_tokens, free_memory
from analysis.errors import PlanError
from analysis.evaluate import check_windows
from analysis.needs import fits, refuse_spread, refuse_unless_it_fits
from analysis.values import key_of
from slicing.healing.examples import Examples
from slicing.healing.judged import AT_A_TIME, accuracy
from slicing.healing.limits import Limits
from slicing.healing.need import LOGITS, training_need
from slicing.healing.record import Healed
from slicing.healing.resume import Resume, clear_old_trainings
from slicing.healing.short import Checkpointing, Moments, check_moments, checkpointed, why_not_checkpointed
from slicing.healing.student import (
    TRAINED_WHOLE,
    Trained,
    merged,
    student_of,
    trainable,
    training_precision,
)
from slicing.healing.training import Loss, Settings, train
from slicing.steps.base import Cost, Made, Step

if TYPE_CHECKING:
    from analysis.needs import MemoryNeed
    from analysis.shape import ModelShape
    from slicing.budget import Budget
    from slicing.plans import Slicing
    from slicing.view import ModelView

HELD = 8
"""Windows of the healing text that no training sees: they judge it, and end it."""
HELD_LABELLED, HELD_SHARE = 200, 5
"""One in five texts with labels is held out, 200 at most. They are shorter, and their accuracy needs more."""
PACE = 100_000.0
"""Tokens that pass the decoder of the demo model in a minute on two cores; the time left begins with it."""


def held_out(examples: Examples) -> int:
    """Say how many examples, the first ones, are held out (``PlanError`` where there are too few)."""
    if examples.plain:
        if len(examples) <= HELD:
            raise PlanError(
                f"The healing text has {len(examples):,} windows of {examples.tokens.shape[1]:,} tokens that "
                f"nothing else sees, and {HELD} of them are held out: give more text, or choose shorter "
                "windows."
            )
        return HELD
    if len(examples) < HELD * HELD_SHARE:
        raise PlanError(
            f"The healing text has {len(examples):,} labelled rows, and one in {HELD_SHARE} of them, "
            f"{HELD} at least, is held out: give a table of {HELD * HELD_SHARE} rows or more."
        )
    return min(HELD_LABELLED, len(examples) // HELD_SHARE)


class Healing(Step):
    """Train what the steps before have left, and keep that where it loses less on held-out windows."""

    axis = "weights"

    tokens: int = Field(default=200_000, ge=1, title="Tokens to train on")
    """Of the healing text, each counted as often as it is seen."""
    minutes: float = Field(default=0.0, ge=0.0, title="Minutes of training")
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

    @property
    def trains_on(self) -> tuple[int, float]:
        """Its tokens, or its minutes."""
        return (0, self.minutes) if self.minutes else (self.tokens, 0.0)

    def on_tokens(self, tokens: int) -> Self:
        """Take these where neither tokens nor minutes were chosen."""
        if self.minutes or self.tokens != type(self).model_fields["tokens"].default:
            return self
        return self.read({**dict(self), "tokens": tokens})

    def in_form(self, form: Slicing, one_shot: bool | None, windows: int | None) -> Self:
        """It has no such settings."""
        return self

    def check(self, view: ModelView, budget: Budget) -> None:
        """Refuse a model that is spread over devices, before any work."""
        refuse_spread(view.model, TRAINED_WHOLE)

    def preview(self) -> None:
        """Searches judge what it heals without it."""

    def cost(self, tokens: int, window_length: int) -> Cost:
        """The passes of the training: forwards and backwards, and the dense model beside."""
        trained = self.minutes * PACE if self.minutes else 4.0 * self.tokens
        return (("Healing", trained + 10.0 * HELD * window_length),)

    @abstractmethod
    def trained(self, shape: ModelShape, size: int) -> int:
        """How many numbers are in training at a time, of a model of ``size`` that was one of this shape."""

    @abstractmethod
    def training_need(
        self, shape: ModelShape, size: int, length: int, batch: int, itemsize: int, twice: bool
    ) -> MemoryNeed:
        """What training takes, of a model of ``size`` that was one of this shape.

        With windows of ``length``, of which ``batch`` tokens pass at a time where nothing is trained.
        ``twice``: every block runs once more on the way back.
        """

    def lighter(self) -> dict[str, Healing]:
        """It in forms that take less memory, by what one may do to get them."""
        return {}

    def runs_twice(self, model: Any, fitting: bool) -> bool:
        """Whether blocks of a ``model`` run once more on the way back; ``fitting``: it fits without."""
        return False

    def memory_need(
        self, shape: ModelShape, budget: Budget, tokens: int, batch: int, itemsize: int
    ) -> MemoryNeed | None:
        """A copy in fp32, its gradients and moments, and the graph of a quarter of a batch."""
        size = budget.parameters(shape) or shape.parameters
        twice = self.runs_twice(None, True)
        return self.training_need(shape, size, max(1, batch // AT_A_TIME), batch, itemsize, twice)

    def decide(self, view: ModelView, budget: Budget, made: Made) -> None:
        """Nothing is to be decided."""

    def apply(self, view: ModelView, plan: None, made: Made) -> Made:
        """Train, and keep what is better."""
        examples = Examples.of(view.healing_windows())
        check_windows(view.model, examples.tokens)
        twice = self._twice_where_it_fits(view, made, examples.tokens.shape[1])
        count = held_out(examples)
        held = examples[:count]
        key = key_of([view.key, made.line, self.key, examples.digest])
        resume = Resume(key) if view.key else None
        if resume:
            clear_old_trainings()
        with PeakMemory(view.model.device) as peak:
            model, told = self.healed(view, made, examples[count:], held, resume, twice)
            if examples.labels:
                told = told.model_copy(
                    update={
                        "accuracy_before": accuracy(made.model, held, view.precision),
                        "accuracy_after": accuracy(model, held, view.precision),
                    }
                )
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

    def _twice_where_it_fits(self, view: ModelView, made: Made, length: int) -> bool:
        """Say whether blocks run twice; ``OutOfMemoryError`` where training does not fit for all that."""
        if why_not_sliceable(view.model.config):  # its shape, and so what it takes, is not known
            return self.runs_twice(made.model, True)
        shape, itemsize = view.shape, view.model.dtype.itemsize
        size = sum(each.numel() for each in made.model.parameters())
        batch = max(length, batch_tokens(view.model.device))
        there = _bytes_of(view.model, made.model)

        def need(form: Healing, twice: bool) -> MemoryNeed:
            found = form.training_need(shape, size, length, batch, itemsize, twice)
            return found.model_copy(update={"dense": there})  # with what the steps before have made

        twice = self.runs_twice(made.model, fits(view.model, need(self, False)))
        instead = {lever: need(form, twice) for lever, form in self.lighter().items()}
        refuse_unless_it_fits("Training what is left", view.model, need(self, twice), instead)
        return twice

    @abstractmethod
    def healed(
        self,
        view: ModelView,
        made: Made,
        examples: Examples,
        held: Examples,
        resume: Resume | None,
        twice: bool,
    ) -> tuple[Any, Healed]:
        """Give a trained copy of what was made, and what that did; ``twice``: see ``runs_twice``."""


def _bytes_of(*models: Any) -> int:
    """Bytes of the weights of models, of which some are shared."""
    listed = (each.untyped_storage() for model in models for each in model.parameters())
    return sum({each.data_ptr(): each.nbytes() for each in listed}.values())


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
    checkpointing: Checkpointing = Field(default="auto", title="Run blocks twice")
    """Keep only what enters every block, and run the block once more on the way back: a third slower, in far
    less memory, to the same gradients. ``auto``: where training does not fit without."""
    moments: Moments = Field(default="fp32", title="Moments of the optimiser")
    """``8-bit`` takes 6 bytes less for every number that is trained, and other steps than ``fp32`` by a
    little. It needs the package torchao."""

    def check(self, view: ModelView, budget: Budget) -> None:
        """Refuse moments in 8 bits where nothing here keeps them, too."""
        super().check(view, budget)
        check_moments(self.moments)

    logits: ClassVar[int] = LOGITS
    """So many tensors of all logits are there at once."""

    @property
    def compares_states(self) -> bool:
        """Whether the streams behind all blocks are compared."""
        return False

    def trained(self, shape: ModelShape, size: int) -> int:
        """All, or r (M + N) of every linear map (M, N), of which attention has four and an MLP three."""
        if self.train == "all":
            return size
        maps = {"mlp": 3}
        each = (
            s.reader_rows + s.writer_columns + maps.get(s.kind, 4) * shape.hidden_size
            for s in shape.sublayers
        )
        return round(self.rank * sum(each) * size / shape.parameters)

    def training_need(
        self, shape: ModelShape, size: int, length: int, batch: int, itemsize: int, twice: bool
    ) -> MemoryNeed:
        """What training takes as it is set."""
        windows = max(1, min(self.batch, batch // length) // AT_A_TIME)
        return training_need(
            shape,
            size,
            self.trained(shape, size),
            windows * length,
            itemsize,
            judged=min(batch, HELD * length),
            logits=self.logits,
            states=self.compares_states,
            adapters=self.train == "lora",
            checkpointed=twice,
            eight_bit=self.moments == "8-bit",
        )

    def lighter(self) -> dict[str, Healing]:
        """With adapters, and with moments in 8 bits."""
        found: dict[str, Healing] = {}
        if self.train == "all":
            found["train adapters (train=lora)"] = self.read({**dict(self), "train": "lora"})
            if self.moments == "fp32":
                eight_bit = self.read({**dict(self), "moments": "8-bit"})
                found["keep moments in 8 bits (moments=8-bit)"] = eight_bit
        return found

    def runs_twice(self, model: Any, fitting: bool) -> bool:
        """Where that is asked for, or training does not fit and the form of the model allows it."""
        if self.checkpointing != "auto":
            return self.checkpointing == "on"
        return not fitting and not why_not_checkpointed(model)

    @abstractmethod
    def loss(self, view: ModelView, made: Made, student: Any) -> Loss:
        """Give the loss that is trained for, of the ``student`` that it will be asked about."""

    def healed(
        self,
        view: ModelView,
        made: Made,
        examples: Examples,
        held: Examples,
        resume: Resume | None,
        twice: bool,
    ) -> tuple[Any, Healed]:
        """Train a copy in fp32."""
        device, dtype = view.model.device, view.model.dtype
        student = student_of(made.model)
        loss = self.loss(view, made, student)
        trainable(student, self.train, self.rank, self.alpha)
        settings = Settings(
            self.name, self.rate, self.batch, view.seed, training_precision(device), self.moments
        )

        def tell(used: float) -> None:
            view.progress("Healing", round(1000 * used), 1000)

        with checkpointed(student) if twice else nullcontext():
            told = train(student, loss, examples, held, self.limits, settings, tell, resume)
        return merged(student, dtype), told.model_copy(update={"checkpointed": twice})

"""Models as users give them: by name, opened by ``load``, or objects of transformers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from analysis.anatomy import why_not_sliceable
from analysis.errors import ModelError, StorageError, UnsupportedError
from analysis.late import torch, transformers
from analysis.quantised import why_not_plain
from analysis.read_shape import read_shape
from analysis.sources.configuration import require_causal, shape_of
from analysis.sources.model import ModelSource, quiet_transformers
from analysis.sources.opening import OpenModel, fetch_missing
from analysis.storage import require_space, whole_folder
from slicing.interface.telling import ProgressLike, telling
from slicing.store import open_model, write_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from analysis.shape import ModelShape
    from slicing.interface.outcomes import Smaller

    ModelLike: TypeAlias = "str | Path | Model | Smaller | PreTrainedModel | tuple[Any, Any]"
"""What every verb takes as a model."""


class Model:
    """A model that is open, with its tokenizer. ``model, tokenizer = ...`` takes the two apart.

    Made by ``load``. Runs on it are stored under the name that it was loaded by, as long as its weights are
    what they were; of weights that were changed, and of objects of transformers, no run is stored.

    >>> import slicing
    >>> opened = slicing.load(model, tokenizer)
    >>> opened.label, opened.parameters
    ('LlamaForCausalLM', 32864)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: ModelSource,
        called: str = "",
    ) -> None:
        self.model = model
        """A causal language model of transformers."""
        self.tokenizer = tokenizer
        self.label = called or source.label
        """A short name for people."""
        self._source, self._was = source, _fingerprint(model)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def __repr__(self) -> str:
        return f"<Model {self.label}: {self.parameters:,} parameters on {self.model.device}>"

    @property
    def parameters(self) -> int:
        """How many parameters it has; what is shared counts once."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def source(self) -> ModelSource:
        """Where it is: where it came from, or in memory alone once its weights are not those any more."""
        if self._source.kind != "memory" and _fingerprint(self.model) != self._was:
            return ModelSource.in_memory(f"{self.label} (changed)", str(self.model.device))
        return self._source


@dataclass(frozen=True)
class Given:
    """A model that a verb was given: where it is, and itself where it is open already."""

    source: ModelSource
    opened: OpenModel | None
    owner: Model | None = None
    """What ``load`` gave, which tells whether the weights are still the same."""

    @property
    def stored(self) -> bool:
        """Whether its runs may be stored: others can open the model too."""
        return self.source.kind != "memory"

    @property
    def label(self) -> str:
        """A short name for people."""
        return self.owner.label if self.owner else self.source.label

    def shape(self) -> ModelShape | None:
        """Its shapes, or ``None`` where it cannot be sliced."""
        if self.opened is None:
            return shape_of(self.source)
        return None if why_not_sliceable(self.opened.model.config) else read_shape(self.opened.model)

    def require_plain_weights(self) -> None:
        """Raise ``UnsupportedError`` where the weights of an open model are quantised."""
        if self.opened is not None and (reason := why_not_plain(self.opened.model.config)):
            raise UnsupportedError(reason)

    def open(self, progress: Any) -> OpenModel:
        """Give the model, opened now where it is not open."""
        if self.opened is not None:
            return self.opened
        fetch_missing(self.source, progress)
        progress("Opening", 0, 1)
        opened = open_model(self.source)
        progress("Opening", 1, 1)
        return opened

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Put an open model into evaluation, without gradients, and leave it as it was found."""
        if self.opened is None:
            yield
            return
        model: Any = self.opened.model
        training = [(module, module.training) for module in model.modules()]
        learning = [(each, each.requires_grad) for each in model.parameters()]
        gradients = [(each, each.grad) for each, _ in learning]
        model.eval().requires_grad_(False)
        try:
            yield
        finally:
            for module, was in training:
                module.training = was
            for each, needed in learning:
                each.requires_grad_(needed)
            for each, had in gradients:
                each.grad = had


def path_of(place: Any) -> Path:
    """Read where something is to be written (``StorageError`` for what is no path)."""
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise StorageError(f"A place to write to is a path, but got {place!r}: give a name.")
    return Path(place).expanduser()


def given(model: Any, tokenizer: Any = None, device: str = "auto", dtype: str = "auto") -> Given:
    """Read what a verb was given as a model (``ModelError``). ``device`` and ``dtype`` are for names."""
    if isinstance(model, Given):
        if model.owner is not None and model.owner.source != model.source:
            raise ModelError(
                f"The weights of '{model.label}' were changed after the smaller model was made from them: "
                "make it again with slicing.compress."
            )
        return model
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise ModelError(
                f"'{os.fspath(model)}' brings a tokenizer of its own: leave tokenizer out, or give the model "
                "itself."
            )
        for what, value in (("device", device), ("dtype", dtype)):
            if not isinstance(value, str):
                raise ModelError(f"A {what} is a name, such as 'auto', but got {value!r}: write it so.")
        return Given(ModelSource.parse(os.fspath(model), device, dtype), None)
    if callable(opening := getattr(model, "_opened", None)):  # a smaller model that is not open yet
        model = opening()
    for what, value in (("device", device), ("dtype", dtype)):
        if not isinstance(value, str) or value != "auto":
            raise ModelError(
                f"The model is open already, and {what}={value!r} is for one that is named: leave it out, or "
                "move the model."
            )
    if isinstance(model, Model):
        if tokenizer is not None:
            raise ModelError(f"'{model.label}' brings a tokenizer of its own: leave tokenizer out.")
        return Given(model.source, OpenModel(model.model, model.tokenizer), model)
    if isinstance(model, tuple) and len(model) == 2:
        model, tokenizer = model
    if not isinstance(model, transformers.PreTrainedModel):
        kind = type(model).__name__
        merge = "merge it first, with merge_and_unload(), and " if "peft" in type(model).__module__ else ""
        raise ModelError(
            f"A model is a path, a Hub id, 'demo', what slicing.load gave, or a causal language model of "
            f"transformers, but got {kind}: {merge}give one of these."
        )
    return _in_memory(model, tokenizer)


def _in_memory(model: Any, tokenizer: Any) -> Given:
    name = Path(model.name_or_path or "").name or type(model).__name__
    if not any(each.__name__.endswith(("ForCausalLM", "LMHeadModel")) for each in type(model).__mro__):
        raise ModelError(
            f"'{name}' is a {type(model).__name__}, not a causal (decoder-only) language model: "
            "open it by AutoModelForCausalLM."
        )
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        raise ModelError(
            f"The model '{name}' is an object, and its tokenizer is needed too: add tokenizer=..., or give "
            "slicing.load(model, tokenizer)."
        )
    resting = any(hasattr(module, "_hf_hook") for module in model.modules())  # accelerate fetches its weights
    if not resting and any(each.is_meta for each in model.parameters()):
        raise ModelError(f"The model '{name}' has no weights in memory (they are on 'meta'): load it whole.")
    source = ModelSource.in_memory(name, str(model.device))
    require_causal(source, model.config)
    return Given(source, OpenModel(model, tokenizer))


def load(
    model: ModelLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    progress: ProgressLike = True,
) -> Model:
    """Open a model, ready for inference, with its tokenizer; fetch it from the Hub where it is not here.

    ``model``: a folder, also one of slicescope; a GGUF file; a Hub id with ``@revision`` where wanted;
    ``demo``; or a causal language model of transformers with its ``tokenizer``, which is left as it is.
    ``device``: ``auto``, ``cpu``, ``mps``, ``cuda:1``, ``cuda:0,1`` or ``cuda+cpu``. ``dtype``: ``auto``,
    ``float32``, ``bfloat16`` or ``float16``. Both are for names alone. No code that comes with a model is
    run, and nothing is unpickled. The parameters of what is opened are frozen: ``requires_grad_(True)`` frees
    them.

    Raises ``ModelError`` for what is no readable causal language model, ``StorageError`` for a damaged folder
    of slicescope, ``OutOfMemoryError`` where it does not fit.

    >>> import slicing
    >>> opened = slicing.load(model, tokenizer)
    >>> opened
    <Model LlamaForCausalLM: 32,864 parameters on cpu>
    >>> weights, words = opened  # the model and its tokenizer
    >>> words.decode(words("words")["input_ids"])
    'words'
    """
    found = given(model, tokenizer, device, dtype)
    with telling(progress) as listen:
        opened = found.open(listen)
    return Model(opened.model, opened.tokenizer, found.source)


def save(
    model: ModelLike,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Write a model and its tokenizer to a new folder, whole or not at all, and give the folder.

    ``slicing.load`` and transformers open it. What ``compress`` or ``heal`` gave comes with its model card,
    and with the modelling files that it needs elsewhere. ``model``: as in ``load``.

    Raises ``StorageError`` where the folder exists, or the disk has no room for it.

    >>> import slicing
    >>> folder = slicing.save(model, "smaller", tokenizer=tokenizer)
    >>> slicing.load("smaller", device="cpu").parameters
    32864
    """
    output = path_of(folder)
    if callable(keep := getattr(model, "_save", None)):  # a smaller model, which lies on disk already
        keep(output)
        return output
    with telling(False) as listen:
        opened = given(model, tokenizer).open(listen)
    require_space(output, sum(each.nbytes for each in opened.model.parameters()))
    with whole_folder(output) as draft, quiet_transformers():
        write_checkpoint(opened.model, opened.tokenizer, draft)
    return output


def _fingerprint(model: Any) -> str:
    """Name the weights by a few numbers of each, which tells a model that was trained or cut meanwhile."""
    found = hashlib.sha256()
    for name, each in model.state_dict(keep_vars=True).items():
        step = max(1, each.numel() // 16)
        version = 0 if each.is_inference() else each._version
        found.update(f"{name} {tuple(each.shape)} {each.dtype} {version}".encode())
        if not each.is_meta and each.numel():
            found.update(each.detach().flatten()[::step].to("cpu", torch.float32).numpy().tobytes())
    return found.hexdigest()

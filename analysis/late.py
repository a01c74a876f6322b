"""Packages that take long to import, each imported when something of it is first used.

Reading a stored run or planning on a stored profile computes nothing on a model, and does not wait for torch.
So a module that works with tensors as well as with plain values takes ``torch`` and the like from here:
``from analysis.late import torch``. Classes that derive from those of torch stand in modules of their own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Late(ModuleType):
    """Stands for a module, and imports it when it is asked for something."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module(), name)

    def _module(self) -> ModuleType:
        """Import the module, the first time, and find it."""
        found = self.__dict__.get("imported")
        if found is None:
            found = self.__dict__["imported"] = importlib.import_module(self.__name__)
        return found


if TYPE_CHECKING:
    import accelerate as accelerate
    import huggingface_hub as huggingface_hub
    import pandas as pd
    import pyarrow as pa
    import safetensors.torch as tensor_files
    import torch as torch
    import transformers as transformers
    from pyarrow import csv as arrow_csv
    from pyarrow import dataset as dataset
    from pyarrow import json as arrow_json
    from scipy import special as special
    from torch import nn as nn
    from torch.nn import functional as functional

    from analysis import stand_ins as stand_ins
else:
    accelerate = Late("accelerate")
    huggingface_hub = Late("huggingface_hub")
    pd = Late("pandas")
    pa = Late("pyarrow")
    tensor_files = Late("safetensors.torch")
    torch = Late("torch")
    transformers = Late("transformers")
    arrow_csv = Late("pyarrow.csv")
    dataset = Late("pyarrow.dataset")
    arrow_json = Late("pyarrow.json")
    special = Late("scipy.special")
    nn = Late("torch.nn")
    functional = Late("torch.nn.functional")
    stand_ins = Late("analysis.stand_ins")  # whose classes derive from those of torch


def inference_mode(work: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate what needs no gradients, as ``torch.inference_mode()`` does."""
    return _under(lambda: torch.inference_mode(), work)


def no_grad(work: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate what needs no gradients but makes tensors that others may take some of."""
    return _under(lambda: torch.no_grad(), work)


def _under(mode: Callable[[], Any], work: Callable[Given, Result]) -> Callable[Given, Result]:
    made: list[Callable[Given, Result]] = []

    @functools.wraps(work)
    def run(*args: Given.args, **settings: Given.kwargs) -> Result:
        if not made:  # torch itself decorates it, which knows about generators too
            made.append(mode()(work))
        return made[0](*args, **settings)

    return run

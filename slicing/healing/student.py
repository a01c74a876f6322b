"""A copy of a model that can be trained, and the numbers of it that are."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from analysis.device import has_bf16
from analysis.late import nn, torch, transformers
from analysis.needs import refuse_spread
from analysis.precision import Precision, multiplies_bf16
from slicing.late import adapter

TRAINED_WHOLE = "Healing trains a model that is whole on one device"

Trained = Literal["all", "lora"]
"""All numbers of the model, or adapters of low rank on its linear maps, which are added in at the end."""


def student_of(model: Any) -> Any:
    """Copy a model for training: in fp32, with weights of its own. What it shares with others is not changed.

    Raises ``UnsupportedError`` for a model that accelerate spreads over devices.
    """
    refuse_spread(model, TRAINED_WHOLE)
    student = copy.deepcopy(model).float().eval()
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    return student


def trainable(student: Any, trained: Trained, rank: int, alpha: float) -> None:
    """Say what is trained of a student: ``all``, or adapters (LoRA, 2106.09685) on its linear maps."""
    head = getattr(student, "get_output_embeddings", lambda: None)()
    for module in list(student.modules()):
        if trained == "all":
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
        elif isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D) and module is not head:
            weight: Any = module.weight
            torch.nn.utils.parametrize.register_parametrization(
                module, "weight", adapter.Adapter(weight, rank, alpha)
            )


def merged(student: nn.Module, dtype: torch.dtype) -> Any:
    """Give the model of a student that was trained: adapters added in, in its former ``dtype``, frozen."""
    for module in list(student.modules()):
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    return student.to(dtype).eval()


def training_precision(device: torch.device) -> Precision:
    """Tell the precision of matrix products in training: bfloat16 where the device multiplies in it."""
    if device.type == "cpu":
        return "fast" if multiplies_bf16(device) else "exact"
    return "fast" if has_bf16(device) else "exact"


def products(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The precision of matrix products inside the ``with``; weights, moments and sums stay in fp32."""
    return nullcontext() if precision == "exact" else torch.autocast(device.type, torch.bfloat16)

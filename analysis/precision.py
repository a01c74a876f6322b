"""Precision of matrix products while a model runs: exact or fast, for evaluation and for calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from analysis.device import HOST, has_bf16
from analysis.errors import ModelError
from analysis.late import torch

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

Precision = Literal["exact", "fast"]
_CALIBRATION: ContextVar[Precision] = ContextVar("the precision of calibration", default="exact")


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether products in bfloat16 are faster here than in float32 (a CPU with such instructions)."""
    if device.type != HOST:
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))


def matmuls(precision: Precision, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The precision of matrix products inside the ``with``.

    ``exact`` leaves them in the model's dtype. ``fast`` does those of a float32 model in bfloat16 where the
    device has instructions for it; norms, softmax and the dense stream stay in float32. Elsewhere the two are
    the same.
    """
    if precision == "fast" and dtype is torch.float32 and _has_instructions(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def calibrating(precision: Precision) -> Iterator[None]:
    """Let the model multiply with this ``matmuls`` wherever something is found from calibration text.

    That is in the passes for streams, second moments, bases and gradients. The stream and what is found from
    it stay in fp32 and fp64. Profiles and training are as without it, and evaluation has a precision of its
    own. It holds in this thread alone.
    """
    token = _CALIBRATION.set(precision)
    try:
        yield
    finally:
        _CALIBRATION.reset(token)


def calibration() -> Precision:
    """Tell the precision of ``calibrating``; ``exact`` outside of it."""
    return _CALIBRATION.get()


def in_calibration(states: Tensor) -> AbstractContextManager[object]:
    """Let a model multiply what it makes of ``states`` in the precision of ``calibrating``."""
    return matmuls(calibration(), states.device, states.dtype)


def check_calibration(precision: Precision, model: Any) -> None:
    """Raise ``ModelError`` where fast products are asked for and are not to be had: see ``matmuls``.

    A model in bfloat16 makes none but such products anyway.
    """
    if precision == "exact" or model.dtype is torch.bfloat16:
        return
    if model.dtype is not torch.float32:
        raise ModelError(
            "Calibration was to multiply in bfloat16 (fast), which models in float32 or bfloat16 can do, but "
            f"this one is in {str(model.dtype).removeprefix('torch.')}: calibrate with exact products, or "
            "open it in another dtype."
        )
    if not _has_instructions(model.device):
        raise ModelError(
            f"Calibration was to multiply in bfloat16 (fast), for which this {model.device.type.upper()} has "
            "no instructions: calibrate with exact products."
        )


def _has_instructions(device: torch.device) -> bool:
    return multiplies_bf16(device) if device.type == HOST else has_bf16(device)

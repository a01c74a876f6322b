"""Which device and dtype to compute in, how much memory that takes, and what to do when it runs out.

The device is chosen once, when a model is opened, and travels with the model from then on.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from analysis.errors import ModelError, OutOfMemoryError, unknown_name
from analysis.late import accelerate, torch

if TYPE_CHECKING:
    from torch import nn

HOST = "cpu"
DEVICES = ("auto", "cuda", "cuda:0", "cuda:0,1", "cuda+cpu", "mps", "cpu")
"""Examples of what a device may be called."""


_NUMBER = re.compile("0|[1-9][0-9]?")


class Dtype(NamedTuple):
    """A type of numbers that a model can be in."""

    itemsize: int
    """Bytes of one number."""


DTYPES = {"float32": Dtype(4), "bfloat16": Dtype(2), "float16": Dtype(2), "float64": Dtype(8)}
"""By their names in torch."""


class Place(NamedTuple):
    """Where a model may lie, as the name of a device says it."""

    devices: tuple[str, ...]
    """Devices that compute, with their numbers where several may be meant; the first has the model's ends."""
    host: bool = False
    """Whether weights that these have no room for may rest on the host, and on disk."""
    chosen: bool = True
    """Whether somebody named it; else (``auto``) what is named is the least, and more is taken at need."""

    @property
    def several(self) -> bool:
        """Tell whether it is more than one device."""
        return self.host or len(self.devices) > 1

    @property
    def name(self) -> str:
        """The one way to write it, such as ``cuda:0,1+cpu``."""
        if not self.chosen:
            return "auto"
        first, *others = self.devices
        numbers = ",".join(each.partition(":")[2] or "0" for each in self.devices)
        cards = f"cuda:{numbers}" if others else first
        return cards + ("+cpu" if self.host else "")


def place_of(name: str) -> Place:
    """Read the name of a device: ``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:1``, several cards as
    ``cuda:0,1``, and cards with the host for what they have no room for, as ``cuda+cpu`` or ``cuda:0,1+cpu``.

    Whether they are here is not asked. Raises ``ModelError`` for any other name.
    """
    if name == "auto":
        return Place(("auto",), chosen=False)
    devices: list[str] = []
    for part in name.split("+"):
        kind, colon, numbers = part.partition(":")
        several = numbers.split(",") if colon else []
        if kind not in ("cpu", "cuda", "mps") or any(not _NUMBER.fullmatch(each) for each in several):
            raise ModelError(unknown_name("device", name, DEVICES))
        devices += [f"{kind}:{each}" for each in several] or [kind]
    cards, host = [each for each in devices if each != HOST], HOST in devices
    apart = {each if ":" in each else f"{each}:0" for each in cards}
    if len(apart) < len(cards) or (
        len(cards) + host > 1 and not all(each.startswith("cuda") for each in cards)
    ):
        raise ModelError(unknown_name("device", name, DEVICES))
    return Place(tuple(cards), host) if cards else Place((HOST,))


def pick_place(name: str) -> Place:
    """Say what a name means here: ``auto`` takes CUDA, then MPS, then the CPU; anything else must exist."""
    place = place_of(name)
    if not place.chosen:
        if torch.cuda.is_available():
            return place._replace(devices=("cuda",))
        return place._replace(devices=("mps" if torch.backends.mps.is_available() else HOST,))
    for each in place.devices:
        device = torch.device(each)
        here = {
            "cpu": True,
            "cuda": (device.index or 0) < torch.cuda.device_count(),
            "mps": torch.backends.mps.is_available(),
        }
        if not here[device.type]:
            raise ModelError(f"The device '{each}' is not available here; use 'auto' or 'cpu'.")
    return place


def pick_device(name: str) -> torch.device:
    """The device that a name means here, of several the first; see ``pick_place``."""
    return torch.device(pick_place(name).devices[0])


DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""What a Linux system has where torch may have a CUDA device: by NVIDIA (a card, a Jetson), under Windows, by
AMD."""


def is_cuda(name: str) -> bool:
    """Tell whether a device of this name is a CUDA device here; one that is named is taken to be here."""
    place = place_of(name)
    if place.chosen:
        return place.devices[0].startswith("cuda")
    return device_type(name) == "cuda"


def device_type(name: str) -> str:
    """Say of which type the device is that a name means here: ``cpu``, ``cuda`` or ``mps``.

    torch, which takes a second to be imported, is asked only where there may be an accelerator. Raises
    ``ModelError`` for an unknown name and for a device that is not here.
    """
    place = place_of(name)
    may_accelerate = sys.platform != "linux" or any(map(os.path.exists, DRIVERS))
    if place.devices == (HOST,) or not (place.chosen or may_accelerate):
        return HOST
    return pick_device(name).type


class Facts(NamedTuple):
    """Facts about a device, for a process that must not ask the device itself.

    A question to CUDA makes a context. It takes hundreds of megabytes of the card, and fails on a full one.
    So the process that has the model asks, and tells the others.
    """

    total: int
    """Bytes of its memory."""
    bf16: bool
    """Whether it multiplies in bfloat16 itself; emulated, that is many times slower."""


LARGE = Facts(total=2**40, bf16=True)
"""Assumed of a device before anybody has asked it, so that no batch is told smaller than it is."""


def has_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies in bfloat16 itself, as NVIDIA cards do from Ampere on."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def pick_dtype(name: str, device: torch.device, stored: object, told: Facts | None = None) -> torch.dtype:
    """``auto`` is float32 on a CPU; on an accelerator bfloat16, or float16 where the weights are stored so or
    the device only emulates bfloat16. What is ``told`` of the device is not asked.
    """
    if name != "auto":
        return _dtype(name)
    if device.type == "cpu":
        return torch.float32
    native = told.bf16 if told else has_bf16(device)
    return torch.bfloat16 if native and stored != torch.float16 else torch.float16


def itemsize_of(dtype: str, device: str) -> int:
    """Say how many bytes a number of a model takes that is opened by these names here; see ``pick_dtype``.

    Raises ``ModelError`` for unknown names and, where the dtype depends on it, for a device that is not here.
    """
    check_device_names(device, dtype)
    if dtype != "auto":
        return DTYPES[dtype].itemsize
    return 4 if device_type(device) == HOST else 2


def check_device_names(device: str, dtype: str) -> None:
    """Raise ``ModelError`` unless there are such a device and such a dtype, be it here or elsewhere."""
    place_of(device)
    if dtype != "auto":
        _require_dtype(dtype)


def _dtype(name: str) -> torch.dtype:
    _require_dtype(name)
    return getattr(torch, name)


def _require_dtype(name: str) -> None:
    if name not in DTYPES:
        raise ModelError(unknown_name("dtype", name, ("auto", *DTYPES)))


@contextmanager
def present(module: nn.Module) -> Iterator[torch.device]:
    """Have the weights of ``module`` here, also where accelerate keeps them on the host or on disk.

    Yields the device they are on meanwhile. Nothing moves when they are here already, nor when the module is
    called inside the ``with``.
    """
    with ExitStack() as stack:
        for each in module.modules():
            # What is here stays: whoever brought it may go on with it.
            if any(own is not None and own.is_meta for own in each._parameters.values()):
                stack.enter_context(accelerate.utils.align_module_device(each))
                stack.enter_context(_kept_here(getattr(each, "_hf_hook", None)))
        yield next((parameter.device for parameter in module.parameters()), torch.device(HOST))


@contextmanager
def _kept_here(hook: Any) -> Iterator[None]:
    """Let a hook of accelerate bring no weights, nor take them away, when its module is called."""

    def without_weights(call: Any) -> Any:
        def called(*args: Any, **settings: Any) -> Any:
            hook.offload = False
            try:
                return call(*args, **settings)
            finally:
                hook.offload = True

        return called

    if not getattr(hook, "offload", False):
        yield
        return
    hook.pre_forward, hook.post_forward = map(without_weights, (hook.pre_forward, hook.post_forward))
    try:
        yield
    finally:
        del hook.pre_forward, hook.post_forward  # those of its class are left


def comes_and_goes(module: nn.Module) -> bool:
    """Tell whether accelerate keeps the module's own weights elsewhere, so that none may share them."""
    return accelerate.utils.has_offloaded_params(module)


def on_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it, in dicts, lists and tuples, on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(on_device(each, device) for each in value)
    return value


def precise_home(device: torch.device | str) -> torch.device:
    """Name where tensors of ``device`` can be in fp64: there, or on the host, since MPS has none."""
    return torch.device(HOST) if torch.device(device).type == "mps" else torch.device(device)


def widen(tensor: torch.Tensor, home: torch.device | str | None = None) -> torch.Tensor:
    """The tensor in fp64, on ``home`` (by default where it is) or where that has fp64.

    It moves first: a device without fp64 cannot widen on the way.
    """
    return tensor.to(precise_home(home or tensor.device)).double()


def alike(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Give the tensor on the device and in the dtype of ``other``.

    It moves first: a device without fp64 cannot widen on the way.
    """
    return tensor.to(other.device).to(other.dtype)


def on_host(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of one shape, which may lie on several devices, in host memory, (n, ...).

    The host waits for them once: each wait leaves a device without work meanwhile.
    """
    first = tensors[0].device
    return torch.stack([each.to(first) for each in tensors]).to(HOST)


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read next to it tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM = getattr(_LIBC, "malloc_trim", None)
"""Of glibc, which keeps what was freed (half a gigabyte after a model of a quarter) until it is asked."""
_MALLOPT = getattr(_LIBC, "mallopt", None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's ``mallopt``, by their numbers in ``malloc.h``."""


def reuse_memory() -> None:
    """Let this process use freed memory again before it goes back to the system, until ``free_memory``.

    glibc gets every tensor above some megabytes from the system anew, which clears each of its pages. This is
    for a process that does nothing but compute; a program that imports slicescope keeps its own settings.
    On other systems nothing changes.
    """
    if _MALLOPT:
        _MALLOPT(_MMAP_THRESHOLD, 2**30)
        _MALLOPT(_TRIM_THRESHOLD, 2**31 - 1)


def pass_by_imports() -> None:
    """Let the collection of garbage pass by all objects that there are now.

    Those that torch and transformers make when they are imported never become garbage, and to look at them
    takes most of every collection. Call it while no model is there: objects that refer to each other in a
    circle are never freed once they are passed by.
    """
    gc.collect()
    gc.freeze()


class Imports:
    """Watches what a process imports, and lets the collection of garbage pass by it.

    A server needs this: it imports most packages only when a page asks for them.
    """

    def __init__(self) -> None:
        self._seen = self._passed = 0

    def pass_by(self) -> None:
        """Do what ``pass_by_imports`` does once more modules were imported than the last time.

        To be called every second or so. It waits for a call between which nothing was imported, since one
        import brings others.
        """
        now = len(sys.modules)
        if now == self._seen and now > self._passed:
            pass_by_imports()
            self._passed = now
        self._seen = now


def free_memory() -> None:
    """Give memory that nothing refers to any more back to the device, and to the system."""
    gc.collect()
    if _TRIM:
        _TRIM(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def memory_of(device: torch.device | str) -> tuple[int, int]:
    """Bytes (free, total) on the device; for a CPU and for MPS those of the machine.

    What torch keeps for its next tensors counts as free. On CUDA asking makes a context, which takes memory
    itself, so that only the process that has the model may ask.
    """
    if device != HOST and torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total
    machine = psutil.virtual_memory()
    return machine.available, machine.total


def total_memory(device: torch.device) -> int:
    """Bytes that the device has, free or not: a property of it, for which no memory is looked at."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def batch_tokens(device: torch.device) -> int:
    """Count the tokens of a batch on a device; see ``batch_on``."""
    return batch_on(device.type, total_memory(device))


def batch_on(kind: str, total: int) -> int:
    """Count the tokens of a batch: 2,048 on a CPU; on an accelerator it depends on its ``total`` bytes.

    Half a megabyte per token is room for the logits of 128,000 tokens in 16 bits and the widest layers. What
    is free at the moment does not matter: other batches have other last digits, and a result must not depend
    on what ran before.
    """
    return 2048 if kind == HOST else int(min(16384, max(1024, total // 8 // 500_000)))


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Invalid buffer size",  # MPS
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # The libraries take their work space with the first product and the first eigenproblem.
    "CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate",
    "CUSOLVER_STATUS_INTERNAL_ERROR when calling cusolverDnCreate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the device or host ran out of memory: torch has a type for CUDA, words for the rest."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        each in str(error).replace("`", "") for each in _OUT_OF_MEMORY
    )


@contextmanager
def out_of_memory_told(doing: str, device: torch.device | None = None, need: str = "") -> Iterator[None]:
    """Turn the device's or the host's out-of-memory error into a sentence with the levers.

    Given a ``device`` it also says what was free there at the start, given a ``need`` what it would take.
    """
    there_was = ""
    if device is not None:
        free, total = memory_of(device)
        there_was = f" ({need + '; ' if need else ''}{free / 1e9:.2f} of {total / 1e9:.2f} GB were free)"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        free_memory()
        raise OutOfMemoryError(
            f"Memory ran out while {doing}{there_was}: use shorter or fewer windows, a 16-bit dtype, or a "
            "smaller model."
        ) from None


class PeakMemory:
    """The most memory in use between entering and leaving the block, in bytes, as ``.bytes``.

    On CUDA what torch allocated; elsewhere the resident size of this process, looked at 20 times a second.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._watch.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._watch.join()

    def _look(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(0.05):
                return

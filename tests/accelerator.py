"""A simulated accelerator: the product's own code runs, and its tensors say that they are on a device.

Tensors say that they are on ``cuda:0``, ``cuda:1`` or ``mps``; their values lie on the CPU. What a real
device refuses is refused with its words: operands on two devices, fp64 on MPS, functions that MPS lacks, more
memory than a card has. What is freed stays with torch's own cache until that is emptied. FLOPs, copies
between devices, waits of the host and the peak of memory are counted. Functions are seen as Python calls
them. What happens inside one of torch's own functions is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
_LACKED_BY_MPS = {"eigh", "eigvalsh", "eig", "qr", "svdvals", "lstsq", "matrix_exp"}
_MOVING = {"to", "cpu", "cuda", "double", "float", "half", "bfloat16", "type_as"}
_NO_FP64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
_WIDE = (torch.float64, torch.complex128)
_ONTO_HOST = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero"}
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "linear", "addmm", "addmm_", "baddbmm"}
_EVENT = ("record", "wait", "query", "synchronize")
_ACROSS = ("copy_", "__setitem__", "__get__", "__set__", "__repr__", "equal", "grad")
"""What may have operands on several devices (a gradient goes back through a copy), or looks at one alone."""
_RARER = (tuple, list, dict, deque)
"""What tensors may lie in: named tuples too, and dictionaries in an order."""


class Simulated(torch.Tensor):
    """A tensor whose values lie in ``values``, on the CPU, while it says that it is on ``device``."""

    values: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, values: Any, place: Any = None, accelerator: Any = None, **_: Any) -> Simulated:
        if isinstance(values, Simulated):  # accelerate makes parameters anew, by their class
            values._is_param = True  # type: ignore[attr-defined]
            return values
        if accelerator is None:  # one that moved to the host, or has no values while it is not needed
            return nn.Parameter(values, requires_grad=False)  # type: ignore[return-value]
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), dtype=values.dtype, device=torch.device("meta")
        )
        made.values, made.place = values, place
        accelerator.hold(made)
        return made

    device = property(lambda self: self.place)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.place.type == "cuda")  # type: ignore[assignment]
    is_mps = property(lambda self: self.place.type == "mps")  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.set_.source_Tensor:  # the one method that no mode sees: weights get parts
            args[0].values = args[1].values
            return args[0]
        raise AssertionError(f"{func} was called past the simulated accelerator.")


class Accelerator(TorchFunctionMode):
    """What stands between Python and torch while the simulation runs, and what it has counted."""

    home = CPU
    """Where the values of all tensors lie: on the CPU, or nowhere (``meta``)."""
    place = CPU
    """The device that computes now."""

    def __init__(self, kind: str, count: int, memory: int) -> None:
        super().__init__()
        self.kind, self.count, self.memory = kind, count, memory
        self.capability: tuple[int, int] = (8, 9)
        """Compute capability that CUDA devices say they have: a card's for consumers, by default."""
        self.flops: Counter[torch.dtype] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        """Bytes, by the kinds of devices from and to."""
        self.waits = 0
        """How often the host waited for a device."""
        self.peak = 0
        """The most bytes that all devices together held."""
        self.allocated: Counter[torch.device] = Counter()
        """Bytes in tensors, by device."""
        self.reserved: Counter[torch.device] = Counter()
        """Bytes that torch holds of a device: those in tensors, and what it keeps for its next ones."""
        self.peaks: Counter[torch.device] = Counter()
        """The most bytes in tensors, by device."""
        self._holders: Counter[int] = Counter()

    def put(self, model: nn.Module, place: str) -> Any:
        """Move a model, or a part of one, onto a device, in place."""
        made: dict[int, torch.Tensor] = {}
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        moved = made.setdefault(
                            id(tensor), self._wrap(self.bare(tensor).detach(), _device(place))
                        )
                        if isinstance(tensor, nn.Parameter):
                            moved._is_param = True  # type: ignore[attr-defined]
                        tensors[name] = moved  # type: ignore[assignment]
        return model

    def hold(self, tensor: Simulated) -> None:
        """Count the memory behind a tensor until nothing refers to it any more."""
        storage = tensor.values.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        place = tensor.place
        if not self._holders[where]:
            if self.allocated[place] + size > self.memory:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size} bytes. GPU {place.index or 0} has a total "
                    f"capacity of {self.memory} bytes, of which {self.free(place)} are free."
                )
            self.allocated[place] += size
            # Before it runs out, torch gives back what it keeps.
            self.reserved[place] = max(self.reserved[place], self.allocated[place])
            self.peaks[place] = max(self.peaks[place], self.allocated[place])
            self.peak = max(self.peak, self.allocated.total())
        self._holders[where] += 1
        weakref.finalize(tensor, self._release, where, size, place)

    def _release(self, where: int, size: int, place: torch.device) -> None:
        self._holders[where] -= 1
        if not self._holders[where]:
            self.allocated[place] -= size

    def free(self, place: Any = None) -> int:
        """Bytes of a device that torch does not hold, as its driver tells them."""
        return self.memory - self.reserved[_device(place or 0)]

    def empty(self) -> None:
        """Give back what torch keeps for its next tensors."""
        self.reserved = Counter(self.allocated)

    def forget_peak(self, place: Any = None) -> None:
        """Begin to look for the peak anew."""
        self.peaks[_device(place or 0)] = self.allocated[_device(place or 0)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            with torch._C.DisableTorchFunction():
                read = func(self.bare(args[0]), *args[1:])
            if not isinstance(read, torch.Tensor):  # a shape or a dtype, which is the same everywhere
                return read
        kwargs = dict(kwargs or {})
        if name in _MOVING and args:
            return self._move(name, args, kwargs)
        if name == "__deepcopy__" and isinstance(args[0], Simulated):
            return self._copy(*args)
        if name == "device" and isinstance(args[0], int):
            return _device(args[0])
        kwargs.pop("pin_memory", None)
        operands: list[torch.Tensor] = []
        gather((args, kwargs), operands)
        wanted = kwargs.get("device")
        if wanted is None and not operands and self.home == CPU:
            return func(*args, **kwargs)
        if wanted is not None and self.has(_device(wanted)):
            self._refuse_wide(name, _device(wanted), (), kwargs.get("dtype"))
            kwargs["device"] = self.home
        if name == "_has_compatible_shallow_copy_type":  # a parameter on another device is a new one
            return not any(isinstance(each, Simulated) for each in operands)
        places = {_place(each) for each in operands if each.ndim or isinstance(each, Simulated)}
        if wanted is None and len(places) > 1:
            self._refuse_two(name, args, operands)
        place = _device(wanted) if wanted is not None else _of(args, operands)
        if self.home == place == CPU and not any(isinstance(each, Simulated) for each in operands):
            return func(*args, **kwargs)
        self._refuse_wide(name, place, operands)
        if place.type == "mps" and name.removeprefix("linalg_") in _LACKED_BY_MPS:
            raise NotImplementedError(
                f"The operator 'aten::{name}' is not currently implemented for the MPS device."
            )
        if name in ("numpy", "__array__") and place != CPU:
            raise TypeError(f"can't convert {place} device type tensor to numpy. Use Tensor.cpu() first.")
        self.place = place
        self.count_call(name, args, kwargs, operands)
        if name in ("mm", "bmm") and self.home == CPU and "out_dtype" in kwargs:  # which CUDA alone has
            wanted = kwargs.pop("out_dtype")
            args = [self.bare(each).to(wanted) for each in args]
        with torch._C.DisableTorchFunction():
            result = func(*mapped(self.bare, args), **mapped(self.bare, kwargs))
        return self._wrapped(name, result, place, operands)

    def _wrapped(self, name: str, result: Any, place: torch.device, operands: list[torch.Tensor]) -> Any:
        """The outcome of a function, with the very tensors that it was given where it changed those."""
        known = {id(_values(each)): each for each in operands}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            self._refuse_wide(name, place, (value,))
            found = known.get(id(value))
            return found if found is not None else self._wrap(value, place)

        return mapped(wrap, result)

    def _wrap(self, values: torch.Tensor, place: torch.device) -> torch.Tensor:
        return Simulated(values, place, self) if self.has(place) else values

    def has(self, place: torch.device) -> bool:
        """Tell whether tensors on a device are simulated ones."""
        return place.type in ("cuda", "mps") or (self.home != CPU and place.type != "meta")

    def bare(self, value: Any) -> Any:
        """The values of a tensor; whatever else it is given as it is."""
        return _values(value)

    def _move(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """``Tensor.to`` in all of its forms: to a device, to a dtype, or both in one step."""
        tensor, *rest = args
        source = _place(tensor)
        target, dtype = source, tensor.dtype
        named = {
            "double": torch.float64,
            "float": torch.float32,
            "half": torch.float16,
            "bfloat16": torch.bfloat16,
        }
        dtype = named.get(name, dtype)
        target = CPU if name == "cpu" else torch.device("cuda", 0) if name == "cuda" else target
        for each in (*rest, kwargs.get("device"), kwargs.get("dtype")):
            if isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, torch.Tensor):
                target, dtype = (target if name == "type_as" else _place(each)), each.dtype
            elif isinstance(each, str | torch.device) or type(each) is int:
                target = _device(each)
        if "mps" in (source.type, target.type) and dtype in _WIDE:
            raise TypeError(f"{_NO_FP64} [{name}: {source} -> {target}]")
        copy = bool(kwargs.get("copy", False))
        if (source, tensor.dtype) == (target, dtype) and not copy:
            return tensor
        if source != target:
            self.copies[source.type, target.type] += tensor.nbytes
            self.waits += target == CPU and not kwargs.get("non_blocking", False)
        self.place = target
        with torch._C.DisableTorchFunction():
            if target.type == "meta":  # nothing is kept
                return self.bare(tensor).to(target, dtype, copy=True)
            moved = self.bare(tensor).to(dtype, copy=copy or source != target)
        return self._wrap(moved, target)

    def _copy(self, tensor: Simulated, known: dict[int, Any]) -> Simulated:
        """What ``copy.deepcopy`` makes of a tensor: once of each, and of a parameter a parameter."""
        if id(tensor) not in known:
            with torch._C.DisableTorchFunction():
                values = tensor.values.detach().clone().requires_grad_(tensor.values.requires_grad)
            made = Simulated(values, tensor.place, self)
            made._is_param = getattr(tensor, "_is_param", False)  # type: ignore[attr-defined]
            known[id(tensor)] = made
        return known[id(tensor)]

    def _refuse_wide(self, name: str, place: torch.device, tensors: Any, dtype: Any = None) -> None:
        if place.type == "mps" and (dtype in _WIDE or any(each.dtype in _WIDE for each in tensors)):
            raise TypeError(f"{_NO_FP64} [{name}]")

    def _refuse_two(self, name: str, args: Any, operands: list[torch.Tensor]) -> None:
        if name in _ACROSS or (name == "__getitem__" and isinstance(args[0], Simulated)):
            return  # indices may lie on the CPU
        found = ", ".join(sorted({str(_place(each)) for each in operands}))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {found} in {name}.")

    def count_call(self, name: str, args: Any, kwargs: Any, operands: list[torch.Tensor]) -> None:
        self.waits += name in _ONTO_HOST
        if name in _PRODUCTS:
            one, other = operands[1:3] if "addmm" in name or "baddbmm" in name else operands[:2]
            columns = other.shape[0] if name == "linear" else other.shape[-1] if other.ndim > 1 else 1
            self.flops[one.dtype] += 2 * one.numel() * columns
        elif name == "scaled_dot_product_attention":
            query, key = operands[:2]
            self.flops[query.dtype] += 4 * query.numel() * key.shape[-2]
        elif name.endswith("eigh"):
            self.flops[operands[0].dtype] += 9 * operands[0].shape[-1] ** 3


def _device(name: Any) -> torch.device:
    """With its number: ``cuda`` is ``cuda:0``."""
    found = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    return torch.device(found.type, 0) if found.type == "cuda" and found.index is None else found


def gather(value: Any, found: list[torch.Tensor]) -> None:
    """Add the tensors in a value, in their order."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif kind is tuple or kind is list:
        for each in value:
            gather(each, found)
    elif kind is dict:
        for each in value.values():
            gather(each, found)
    elif isinstance(value, _RARER) and kind is not torch.Size:
        found += [each for each in tree_leaves(value) if isinstance(each, torch.Tensor)]


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Do what ``tree_map`` does, several times as fast where all is plain, as most of it is."""
    kind = type(value)
    if kind is tuple:
        return tuple([mapped(change, each) for each in value])
    if kind is list:
        return [mapped(change, each) for each in value]
    if kind is dict:
        return {name: mapped(change, each) for name, each in value.items()}
    if isinstance(value, _RARER) and kind is not torch.Size:
        return tree_map(change, value)
    return change(value)


def _place(tensor: torch.Tensor) -> torch.device:
    return tensor.place if isinstance(tensor, Simulated) else tensor.device


def _values(value: Any) -> Any:
    return value.values if isinstance(value, Simulated) else value


def _of(args: Any, operands: list[torch.Tensor]) -> torch.device:
    """Where the outcome is: with the tensor that is changed or looked at, else with the operands."""
    if args and isinstance(args[0], torch.Tensor) and (args[0].ndim or len(operands) == 1):
        return _place(args[0])
    places = [_place(each) for each in operands if each.ndim] or [_place(each) for each in operands]
    return next((each for each in places if each != CPU), CPU)


Made = TypeVar("Made", bound=Accelerator)


@contextmanager
def simulated(
    kind: str, count: int = 1, memory: float = math.inf, made: Callable[..., Made] = Accelerator
) -> Iterator[Made]:
    """Have ``count`` devices of a kind (``cuda`` or ``mps``) with ``memory`` bytes each."""
    total = int(min(memory, 2**50))
    accelerator = made(kind, count, total)
    cuda = kind == "cuda"
    answers: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "is_available": lambda: cuda,
            "device_count": lambda: count if cuda else 0,
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_capability": lambda device=None: accelerator.capability,
            "get_device_properties": lambda device=None: SimpleNamespace(
                total_memory=total, name="simulated"
            ),
            "mem_get_info": lambda device=None: (accelerator.free(device), total),
            "memory_reserved": lambda device=None: accelerator.reserved[_device(device or 0)],
            "memory_allocated": lambda device=None: accelerator.allocated[_device(device or 0)],
            "max_memory_allocated": lambda device=None: accelerator.peaks[_device(device or 0)],
            "reset_peak_memory_stats": accelerator.forget_peak,
            "synchronize": lambda device=None: None,
            "empty_cache": accelerator.empty,
        },
        torch: {"Event": lambda *_, **__: SimpleNamespace(**dict.fromkeys(_EVENT, lambda *_: True))},
        torch.backends.mps: {"is_available": lambda: not cuda},
        torch.mps: {"synchronize": lambda: None, "empty_cache": lambda: None},
    }
    with ExitStack() as stack:
        for module, functions in answers.items():
            for name, function in functions.items():
                stack.enter_context(patch.object(module, name, function))
        stack.enter_context(accelerator)
        yield accelerator

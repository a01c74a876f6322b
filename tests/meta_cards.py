"""Cards that compute nothing: the engine's own code runs on meta tensors, and every operation is counted.

A dispatch mode beneath the simulated cards of ``accelerator.py`` sees what torch carries out: products by
dtype, decompositions, bytes, copies, waits of the host, and the peak of live bytes by device. What depends on
numbers is stood in for: a mask that was found by comparing holds the first token of every window, everything
is finite, and a loss is small.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch._dynamo  # not first while the simulation runs
from accelerator import CPU, Accelerator, gather, mapped, simulated
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WINDOW = 2048
"""Tokens of a window, of which the first is massive."""
_SMALL = 1e-3
"""What a number is that the host asks for."""
_CUBES = {
    "linalg_eigh": 9.0,
    "linalg_qr": 8 / 3,
    "linalg_cholesky_ex": 1 / 3,
    "cholesky_inverse": 2 / 3,
    "linalg_svd": 12.0,
    "linalg_inv_ex": 2.0,
    "linalg_solve_ex": 2 / 3,
    "linalg_solve_triangular": 1.0,
}
"""FLOPs of a decomposition over its rows times the square of its width. A triangular matrix is solved for as
many columns as it has."""
_SLOWER = 4
"""Decompositions but the eigenproblem reach so many times less of a card's rate than products: a guess."""
_PRODUCTS = (
    "linear",
    "matmul",
    "__matmul__",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "scaled_dot_product_attention",
)
_MAKING = _device_constructors()
_ANSWERED = ("numpy", "__array__", "tolist", "item", "equal", "__float__", "__int__", "__bool__", "__index__")
_AS: dict[str, Callable[[Any], Any]] = {
    "__float__": float,
    "__int__": int,
    "__bool__": bool,
    "__index__": int,
}


@dataclass(frozen=True)
class Card:
    """A GPU, by the public figures of its maker: FLOP and bytes in a second."""

    rates: dict[torch.dtype, float]
    bandwidth: float
    eigenproblem: float
    """Seconds of one in fp64 with D = 4,096: a guess, that of no measurement."""
    capability: tuple[int, int]
    """Its compute capability, by which the engine chooses how it multiplies in fp32."""


CARDS = {
    "H100": Card({torch.bfloat16: 989e12, torch.float32: 67e12, torch.float64: 67e12}, 3.35e12, 1.0, (9, 0)),
    "RTX 4090": Card(
        {torch.bfloat16: 165e12, torch.float32: 82.6e12, torch.float64: 1.29e12}, 1.01e12, 1.3, (8, 9)
    ),
    "A100": Card(
        {torch.bfloat16: 312e12, torch.float32: 19.5e12, torch.float64: 19.5e12}, 1.56e12, 1.2, (8, 0)
    ),
}
REACHED = 0.68
"""The share of these rates that large products reach."""
SMALL, TOGETHER = 32, 1.65e-3 / 128
"""Eigenproblems up to this width are solved together, in so many seconds each: 128 of them, in fp64, were
measured to take 1.65 ms on an A100 (pytorch/pytorch#175585)."""
PINNED, PAGEABLE = 25e9, 6e9
"""Bytes in a second between host and card."""
WAIT = 2e-5
"""Seconds that a card stands still while the host reads a number of it and launches what follows."""


Numbers = defaultdict[str, float]
"""What was counted, by names such as ``flops bfloat16``, ``cubes linalg_eigh 4096``, ``copies cpu cuda``,
``waits``, ``launches``, ``bytes``, ``seconds H100`` (each operation bound by its products or by its bytes,
whichever takes longer) and ``peak cuda:0``. FLOPs, bytes and seconds are those of the cards."""


def fp64_share(found: Numbers) -> float:
    """The share of fp64 in all products of cards, decompositions among them."""
    wide = found["flops float64"] + found["cubed flops"]
    return wide / max(1.0, wide + sum(found[f"flops {name}"] for name in ("bfloat16", "float32")))


def seconds(found: Numbers, card: str) -> float:
    """Predict the seconds on a card. Eigenproblems, copies and waits overlap with nothing."""
    across = sum(size for name, size in found.items() if name.startswith("copies") and "cpu" in name)
    widths = {
        int(name.split()[-1]): count for name, count in found.items() if name.startswith("cubes linalg_eigh")
    }
    solving = sum(
        count * (TOGETHER if width <= SMALL else CARDS[card].eigenproblem * (width / 4096) ** 2.7)
        for width, count in widths.items()
    )
    return found[f"seconds {card}"] + solving + across / PAGEABLE + found["waits"] * WAIT


class _Beneath(TorchDispatchMode):
    """Hand on every operation that torch carries out to who counts it."""

    def __init__(self, count: Callable[..., None]) -> None:
        super().__init__()
        self.count = count
        self.single: set[Any] = set(flop_registry)
        """Operations that are not made of others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in self.single and func not in self.single:
            with self:  # without gradients torch hands on what is made of several operations as one
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
            self.single.add(func)
        found = func(*args, **(kwargs or {}))
        self.count(func, args, kwargs or {}, found)
        return found


class Counting(Accelerator):
    """Simulated cards whose tensors have no values, and the host's neither."""

    home = torch.device("meta")

    def __init__(self, kind: str, count: int, memory: int) -> None:
        super().__init__(kind, count, memory)
        self.counts: Numbers = defaultdict(float)
        self.highest: Counter[torch.device] = Counter()
        """The most bytes of each device since the count began; the engine forgets ``peaks`` at will."""
        self.reserved = self.allocated  # torch keeps nothing
        self._beneath = _Beneath(self._count_operation)
        self._held: dict[int, tuple[StorageWeakRef, torch.device, int]] = {}

    def __enter__(self) -> Any:
        self._beneath.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._beneath.__exit__(*raised)

    def put(self, model: Any, place: str) -> Any:
        """Move a model, or a part of one, without numbers onto a device, in place."""
        self.settle()
        known = [self.bare(each) for each in (*model.parameters(), *model.buffers())]
        with torch._C.DisableTorchFunction():
            for each in known:
                if (where := each.untyped_storage()._cdata) in self._held:
                    self._let_go(where)
                self.place = torch.device(place)
                self._hold(each)
        return super().put(model, place)

    def begin(self) -> None:
        """Begin to count anew; what is held now stays."""
        self.settle()
        self.counts, self.highest, self.waits = defaultdict(float), Counter(self.allocated), 0
        self.copies.clear()

    def done(self) -> Numbers:
        """What was counted since then."""
        found: Numbers = defaultdict(float, {**self.counts, "waits": float(self.waits)})
        found.update({f"copies {one} {other}": size for (one, other), size in self.copies.items()})
        found.update({f"peak {place}": size for place, size in self.highest.items()})
        return found

    def bare(self, value: Any) -> Any:
        """Without values, also where there were some."""
        value = super().bare(value)
        if isinstance(value, torch.Tensor) and not value.is_meta:
            return value.to(self.home)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else None
        if isinstance(first, torch.Tensor) and name in _ANSWERED:
            return self._answer(name, first)
        if func in _MAKING and kwargs.get("device") is None:
            kwargs["device"] = CPU
        kwargs.pop("generator", None)
        if name == "__getitem__":
            args = (first, mapped(self._chosen, args[1]))
        elif name == "scaled_dot_product_attention":
            func = _attention
        if name == "unique":
            return args[0].flatten()
        if name in _PRODUCTS and torch.is_autocast_enabled("cuda"):  # which knows nothing of simulated cards
            half = torch.get_autocast_dtype("cuda")
            args, kwargs = mapped(lambda each: self._narrowed(each, half), (args, kwargs))
        found = super().__torch_function__(func, types, args, kwargs)
        self._follow(name, args, kwargs, found)
        return found

    def _narrowed(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype is torch.float32 and value.device != CPU:
            return self._move("to", (value, dtype), {})
        return value

    def _follow(self, name: str, args: Any, kwargs: Any, found: Any) -> None:
        """Know how many of a mask are true: all at first, fewer once some are set, the rest if negated."""
        first: Any = args[0] if args else None
        if name in ("ones", "ones_like", "full") and found.dtype is torch.bool:
            found._true = found.numel()
        elif name in ("__invert__", "bitwise_not", "logical_not"):
            found._true = found.numel() - _true(first)
        elif name in ("cpu", "to", "clone") and hasattr(first, "_true"):
            found._true = first._true
        elif name == "__setitem__" and first.dtype is torch.bool and isinstance(args[1], torch.Tensor):
            first._true = _true(first) + (1 if args[2] else -1) * args[1].numel()

    def _answer(self, name: str, tensor: torch.Tensor) -> Any:
        """What the host reads of a tensor: small numbers, and that all is finite."""
        number = True if tensor.dtype is torch.bool else _SMALL if tensor.dtype.is_floating_point else 1
        if name in ("numpy", "__array__", "tolist"):
            assert tensor.device == CPU or name == "tolist", "numpy reads no card"
            self.waits += tensor.device != CPU
            places = np.arange(tensor.numel()).reshape(tuple(tensor.shape))
            if tensor.dtype is torch.bool:
                answer = places < _true(tensor)
            else:
                answer = (
                    np.full_like(places, number, dtype=float) if tensor.dtype.is_floating_point else places
                )
            return (
                answer.tolist()
                if name == "tolist"
                else answer.astype(str(tensor.dtype).removeprefix("torch."))
            )
        self.waits += tensor.device != CPU
        if name == "equal":  # what is tried on a few tokens comes out as expected; a block changes the stream
            return tensor.numel() < WINDOW * tensor.shape[-1]
        return _AS.get(name, lambda value: value)(number)

    def _chosen(self, index: Any) -> Any:
        """The places that a mask chooses, the massive tokens or all others; any other index as it is."""
        if not isinstance(index, torch.Tensor) or index.dtype is not torch.bool:
            return index
        self.waits += index.device != CPU  # the host asks how many there are
        return torch.empty(_true(index), dtype=torch.long, device=self.home)

    def count_call(self, name: str, args: Any, kwargs: Any, operands: list[torch.Tensor]) -> None:
        """Count what is no operation: copies from one device to another."""
        if name in ("copy_", "__setitem__") and operands[-1].device != operands[0].device:
            source, target = operands[-1].device, operands[0].device
            self.copies[source.type, target.type] += operands[-1].nbytes
            self.waits += target == CPU and not kwargs.get("non_blocking", False)

    def hold(self, tensor: Any) -> None:
        """Do nothing: memory is counted beneath."""

    def free(self, place: Any = None) -> int:
        """Bytes of a device in no tensor."""
        self.settle()
        return super().free(place)

    def _count_operation(self, func: Any, args: Any, kwargs: Any, found: Any) -> None:
        made: list[torch.Tensor] = []
        gather(found, made)
        for each in made:
            self._hold(each)
        operands: list[torch.Tensor] = []
        gather((args, kwargs), operands)
        if not made:
            return
        behind = {each.untyped_storage()._cdata for each in operands}
        if made[0].untyped_storage()._cdata in behind and not _changes(func):
            return  # a view
        name, on_card = func._overloadpacket.__name__.lstrip("_"), self.place.type == "cuda"
        flops, dtype = _flops(func, args, kwargs, made), (operands or made)[0].dtype
        kind = str(dtype).removeprefix("torch.")
        where = "" if on_card else "host "
        if name in _CUBES:
            width = operands[0].shape[-1]
            count = operands[0].shape[:-2].numel()
            self.counts[f"{where}cubes {name} {width}"] += count
            cubed = count * _CUBES[name] * width**2 * operands[0].shape[-2]
            self.counts[f"{where}cubed flops"] += cubed
            if on_card and name != "linalg_eigh":
                self._pass(_SLOWER * cubed, 0, dtype)
            return
        self.counts[f"{where}flops {kind}"] += flops
        if not on_card:
            return
        moved = 0 if name.startswith("empty") else sum(each.nbytes for each in (*operands, *made))
        self.counts["bytes"] += moved
        self.counts["bytes float64"] += moved if made[0].dtype is torch.float64 else 0
        self.counts["launches"] += moved > 0
        self._pass(flops, moved, dtype)

    def _pass(self, flops: float, moved: float, dtype: torch.dtype) -> None:
        """Let the cards' time pass, bound by products or by bytes."""
        for card, figures in CARDS.items():
            rate = figures.rates.get(dtype, figures.rates[torch.float32]) * REACHED
            self.counts[f"seconds {card}"] += max(flops / rate, moved / figures.bandwidth)

    def _hold(self, tensor: torch.Tensor) -> None:
        """Count the memory behind a tensor until nothing refers to it any more."""
        storage, place = tensor.untyped_storage(), self.place
        where, size = storage._cdata, storage.nbytes()
        if place.type == "meta":  # what rests elsewhere has left this behind
            return
        if where in self._held:
            if not self._held[where][0].expired():
                return
            self._let_go(where)
        self._held[where] = (StorageWeakRef(storage), place, size)
        self.allocated[place] += size
        if self.allocated[place] > min(self.peaks[place], self.highest[place]):
            self.settle()
            self.peaks[place] = max(self.peaks[place], self.allocated[place])
            self.highest[place] = max(self.highest[place], self.allocated[place])
        if self.allocated[place] > self.memory and place != CPU:
            self.settle()
            if self.allocated[place] > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory on {place}.")

    def _let_go(self, where: int) -> None:
        _, place, size = self._held.pop(where)
        self.allocated[place] -= size

    def settle(self) -> None:
        """Give back what nothing refers to any more."""
        for where in [where for where, (storage, *_) in self._held.items() if storage.expired()]:
            self._let_go(where)


@cache
def _changes(func: Any) -> bool:
    """Tell whether an operation writes into what it is given."""
    return any(each.alias_info and each.alias_info.is_write for each in func._schema.returns)


def _true(mask: Any) -> int:
    """How many of a mask are true: of one that was found by comparing, the first token of every window."""
    return getattr(mask, "_true", max(1, mask.numel() // WINDOW))


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    """Fused attention, as every card has it: nothing of size (T, T) is ever there."""
    if key.shape[1] != query.shape[1]:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    return torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, True, scale=scale
    )[0]


def _flops(func: Any, args: Any, kwargs: Any, made: list[torch.Tensor]) -> float:
    formula = flop_registry.get(func._overloadpacket)
    if formula is None:
        return 0.0
    if func._overloadpacket is torch.ops.aten.bmm:
        args, kwargs = args[:2], {}  # its formula knows no dtype of the sums
    found = formula(*args, **kwargs, out_val=made[0] if len(made) == 1 else tuple(made))
    return found / 2 if "attention" in func._overloadpacket.__name__ else float(found)  # causal: half of it


def counted(cards: int = 1, memory: float = 80e9) -> Any:
    """Have ``cards`` simulated GPUs with ``memory`` bytes each, and count what they do."""
    return simulated("cuda", cards, memory, Counting)

"""Store activations between two passes: on the device, beyond a budget in host memory, beyond that on disk.

Knows nothing about models.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.device import HOST, memory_of
from analysis.late import torch
from analysis.storage import cache_folder, clear_abandoned, owned, require_space, storage_errors

if TYPE_CHECKING:
    from torch import Tensor


class Activations:
    """A list of tensors, each in the best place that has room when it is first put there."""

    def __init__(self, device: torch.device, device_bytes: int, host_bytes: int) -> None:
        """``device_bytes`` and ``host_bytes`` are the budgets; on a CPU the two are one memory."""
        self.device = device
        self.room = {"device": device_bytes if device.type != "cpu" else 0, "host": host_bytes}
        self.homes: list[str] = []
        self.tensors: list[Tensor | None] = []
        self._shapes: list[torch.Size] = []
        self._folder: Path | None = None
        self._pinned: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.homes)

    def append(self, tensor: Tensor) -> None:
        """Store one more. Its size now counts against the budget, also when it is narrower later."""
        home = next((place for place, room in self.room.items() if tensor.nbytes <= room), "disk")
        if home == "disk":
            require_space(cache_folder(), tensor.nbytes)
        else:
            self.room[home] -= tensor.nbytes
        self.homes.append(home)
        self.tensors.append(None)
        self._shapes.append(tensor.shape)
        self[len(self) - 1] = tensor

    def has_room(self, device: torch.device, size: int) -> bool:
        """Tell whether the budget of the host leaves room for so many bytes of other things on ``device``.

        The memory of a card is for what has to be there.
        """
        return device.type == HOST and self.room["host"] >= size

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        home = self.homes[index]
        if home == "disk":
            self._shapes[index] = tensor.shape
            path = self._path(index)
            with storage_errors(path):
                write_numbers(tensor, path)
            self._dtype = tensor.dtype
        else:
            self.tensors[index] = tensor if home == "device" else self._on_host(index, tensor)

    def _on_host(self, index: int, tensor: Tensor) -> Tensor:
        """Copy a tensor to the host: from a card into pinned memory, which the card itself can write."""
        if tensor.device.type != "cuda":
            return tensor.cpu()
        known = self._pinned.get(index)
        if known is None or known.dtype != tensor.dtype or known.numel() < tensor.numel():
            self._pinned[index] = known = _pinned_memory(tensor.numel(), tensor.dtype)
        return known[: tensor.numel()].view(tensor.shape).copy_(tensor)

    def take(self, index: int, device: torch.device) -> Tensor:
        """Return the tensor, on ``device``; it gives up its place in memory until it is set again."""
        found = self.look(index, device)
        self.tensors[index] = None
        return found

    def look(self, index: int, device: torch.device) -> Tensor:
        """Return the tensor, on ``device``; it also stays where it is."""
        if self.homes[index] != "disk":
            tensor = self.tensors[index]
            assert tensor is not None
            return tensor.to(device)
        path = self._path(index)
        with storage_errors(path):
            numbers = np.fromfile(path, dtype=str(self._dtype).removeprefix("torch."))
        return torch.from_numpy(numbers).view(self._shapes[index]).to(device)

    @property
    def spilled(self) -> int:
        """The number of tensors on disk."""
        return self.homes.count("disk")

    def _path(self, index: int) -> Path:
        if self._folder is None:
            home = cache_folder()
            with storage_errors(home):
                home.mkdir(parents=True, exist_ok=True)
                clear_abandoned(home)
                self._folder = Path(tempfile.mkdtemp(prefix=owned("states"), dir=home))
            # Also when the process ends in order; after a kill the next one clears it away.
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{index}.bin"


def _pinned_memory(count: int, dtype: torch.dtype) -> Tensor:
    """Take pinned memory of the host, or other memory where the system grants no more of it."""
    try:
        return torch.empty(count, dtype=dtype, pin_memory=True)
    except RuntimeError:
        return torch.empty(count, dtype=dtype)


def write_numbers(tensor: Tensor, path: Path) -> None:
    """Write the bare numbers of a tensor to a file."""
    # Not with numpy's own writer, which does not notice a full disk in its last buffer.
    with path.open("wb") as file:
        file.write(tensor.contiguous().cpu().numpy().data)


def budgets(device: torch.device, work: int | None = None) -> tuple[int, int]:
    """Return the bytes for activations on the device and on the host: a third of what is free now.

    On a card, where it is known what the ``work`` of a job takes there: all but that, and a sixteenth of the
    card, since memory comes in pieces.
    """
    host = memory_of(HOST)[0] // 3
    if device.type != "cuda":
        return 0, host
    free, total = memory_of(device)
    return (free // 3 if work is None else max(0, free - work - total // 16)), host

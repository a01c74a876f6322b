"""Memory that runs out, wherever it runs out, is told in one way; nothing else is mistaken for it."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref

import pytest
import torch

from analysis.device import (
    DTYPES,
    Imports,
    PeakMemory,
    free_memory,
    is_out_of_memory,
    itemsize_of,
    memory_of,
    out_of_memory_told,
    pass_by_imports,
    pick_device,
    pick_dtype,
)
from analysis.errors import ModelError, OutOfMemoryError


def test_host_that_cannot_give_the_memory_is_told():
    with pytest.raises(OutOfMemoryError, match="ran out while slicing"), out_of_memory_told("slicing"):
        torch.empty(1 << 50)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("Invalid buffer size: 28.62 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnXsyevd(...)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR when calling `cusolverDnCreate`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_every_backend_says_it_in_its_own_words(error):
    assert is_out_of_memory(error)
    with pytest.raises(OutOfMemoryError, match="a 16-bit dtype, or a smaller model"), out_of_memory_told("x"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(...)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR when calling `cusolverDnXsyevd(...)`"),
        ValueError("out of memory"),
        KeyError("x"),
    ],
)
def test_other_errors_pass_as_they_are(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised, out_of_memory_told("x"):
        raise error
    assert raised.value is error


def test_peak_sees_memory_that_is_given_back_before_the_end():
    with PeakMemory(torch.device("cpu")) as quiet:
        time.sleep(0.1)
    with PeakMemory(torch.device("cpu")) as busy:
        block = torch.ones(64, 1 << 20)  # 256 MB
        for _ in range(200):  # a busy machine looks less often
            if busy.bytes - quiet.bytes > 200e6:
                break
            time.sleep(0.05)
        del block
        time.sleep(0.2)
    assert quiet.bytes > 0
    assert busy.bytes - quiet.bytes > 200e6


def test_peak_stops_looking_when_the_block_fails():
    peak = PeakMemory(torch.device("cpu"))
    with pytest.raises(ValueError, match="stop"), peak:
        raise ValueError("stop")
    assert not peak._watch.is_alive()


def test_host_tells_its_memory():
    free, total = memory_of(torch.device("cpu"))
    assert 0 < free <= total


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
def test_memory_that_was_freed_is_used_again_and_goes_back_when_asked():
    """By the pages that the system had to clear, and by what the process holds in the end."""
    script = """
import resource, sys
import psutil, torch
from analysis.device import free_memory, reuse_memory
if sys.argv[1] == "reuse":
    reuse_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)  # 64 MiB
held = psutil.Process().memory_info().rss
free_memory()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, psutil.Process().memory_info().rss - held)
"""
    told = {}
    for how in ("reuse", "usual"):
        asked = [sys.executable, "-c", script, how]
        done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
        told[how] = [int(each) for each in done.stdout.split()]
    assert told["reuse"][0] < told["usual"][0] / 2
    assert told["reuse"][1] < -60e6


def test_what_a_process_begins_with_is_passed_by_and_what_comes_later_is_not():
    begun = [gc.callbacks]
    pass_by_imports()
    assert not any(each is begun for each in gc.get_objects())
    gone = weakref.finalize(type("Part", (), {}), int)  # a class refers to itself
    free_memory()
    assert not gone.alive


def test_what_is_imported_later_is_passed_by_once_nothing_more_is_imported(monkeypatch):
    passed: list[int] = []
    monkeypatch.setattr("analysis.device.pass_by_imports", lambda: passed.append(len(sys.modules)))
    imports = Imports()
    begun = len(sys.modules)
    for _ in range(3):
        imports.pass_by()
    assert passed == [begun]
    for name in ("late", "later"):  # an import that goes on while it is looked at
        monkeypatch.setitem(sys.modules, name, sys)
        imports.pass_by()
    assert passed == [begun]
    for _ in range(3):
        imports.pass_by()
    assert passed == [begun, begun + 2]
    monkeypatch.delitem(sys.modules, "later")
    for _ in range(3):
        imports.pass_by()
    assert passed == [begun, begun + 2]


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("dtype", ["auto", *DTYPES])
def test_bytes_of_a_number_are_those_of_the_dtype_that_is_picked(dtype, device):
    assert itemsize_of(dtype, device) == pick_dtype(dtype, pick_device(device), None).itemsize


@pytest.mark.parametrize(("dtype", "device"), [("float8", "cpu"), ("auto", "tpu"), ("float32", "cpu+cpu:1")])
def test_bytes_of_a_number_of_unknown_names_are_refused(dtype, device):
    with pytest.raises(ModelError):
        itemsize_of(dtype, device)

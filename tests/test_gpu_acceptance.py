"""The acceptance script for a GPU, where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerator import simulated
from gpu_acceptance import TINY, Checks, main_job

SCRIPT = Path(__file__).parent / "gpu_acceptance.sh"


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHON": sys.executable, "SLICESCOPE_HOME": str(home)}
    return subprocess.run(["sh", str(SCRIPT), *words], capture_output=True, text=True, check=False, env=given)


def test_the_script_runs_here_with_a_tiny_model(tmp_path):
    told = run("--cpu-tiny", home=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    for job in ("forward", "profile", "evaluation", "slicing", "bases", "preview", "speed"):
        assert f"{job}: " in told.stdout
    assert "PASS sliced model" in told.stdout
    assert told.stdout.endswith("0 failed\n")


@pytest.mark.parametrize("capability", [(8, 9), (9, 0)])
def test_the_main_job_runs_on_a_simulated_card_and_judges_its_times(capability, capsys):
    with simulated("cuda") as accelerator:
        accelerator.capability = capability
        checks = Checks(torch.device("cuda:0"), judged=True)
        main_job(checks, TINY, 4, 64)
    told = capsys.readouterr().out
    for job in ("profile", "evaluation", "slicing", "bases"):  # times of a simulation pass or fail by chance
        assert f"PASS {job}: " in told or f"FAIL {job}: " in told
    assert "memory formula" in told
    assert "batch 32: prompt" in told
    assert ("PASS error of halves" in told) == (capability == (9, 0))
    assert "Error" not in told


def test_what_fails_is_told_and_ends_the_script_with_1(capsys, tmp_path):
    checks = Checks(torch.device("cpu"), judged=True)

    def broken() -> None:
        raise RuntimeError("no such kernel")

    assert checks.timed("slicing", broken) is None
    checks.seconds |= {"forward": 1.0, "profile": 1.2}
    checks.ratio("profile")
    assert capsys.readouterr().out.splitlines() == [
        "FAIL slicing: RuntimeError: no such kernel",
        "FAIL profile: 1.20x a forward pass, at most 1.05x",
    ]
    assert checks.failed == 2
    if not torch.cuda.is_available():
        refused = run(home=tmp_path)
        assert refused.returncode == 1
        assert refused.stdout == "FAIL there is no CUDA device here: run it with --cpu-tiny\n"

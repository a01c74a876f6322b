"""Some of the wrong commands of ``make fuzz``, which tries all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_wrong_commands_are_refused_in_one_sentence_and_spoil_nothing():
    answer = subprocess.run([sys.executable, FUZZ, "--sample", "60"], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "60 tried, 0 bad", answer.stdout + answer.stderr
    assert answer.returncode == 0

"""Other libraries say nothing on the terminal of a command, but for their errors."""

from __future__ import annotations

import os
import subprocess
import sys

from app.quiet import SETTINGS

COMMAND = """
import sys
from app import cli

@cli.app.command()
def talk():
    import logging, warnings
    import datasets, huggingface_hub.utils as hub, transformers
    from transformers.utils import logging as told
    for name in ("transformers.generation", "datasets.load", "huggingface_hub.utils"):
        logging.getLogger(name).warning("a warning of %s", name)
        logging.getLogger(name).error("an error of %s", name)
    warnings.warn("a warning of Python")
    for bar in (told.tqdm, datasets.utils.tqdm, hub.tqdm):
        for _ in bar(range(3), desc="a bar"):
            pass

sys.argv = ["slicescope", "talk"]
cli.main()
"""


def said(**settings: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    found = subprocess.run(
        [sys.executable, "-c", COMMAND], env=plain | settings, capture_output=True, text=True, check=True
    )
    return found.stdout + found.stderr


def test_warnings_and_bars_of_other_libraries_stay_off_the_terminal_and_errors_do_not():
    told = said()
    assert "a bar" not in told
    assert "a warning of" not in told
    assert told.count("an error of") == 3


def test_what_the_user_asks_them_for_they_say():
    told = said(TRANSFORMERS_VERBOSITY="warning", PYTHONWARNINGS="default")
    assert "a warning of transformers" in told
    assert "a warning of Python" in told
    assert "a warning of datasets" not in told

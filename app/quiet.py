"""Keeping other libraries off the terminal: their bars and warnings stand between ours and say nothing that
our own messages do not. Their errors stay.

Done once for a process, before any of them is imported; what the user has set stays as it is.
"""

from __future__ import annotations

import os
import sys
import warnings

SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def quieten() -> None:
    """Silence what is below an error in this process and those that it starts."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")

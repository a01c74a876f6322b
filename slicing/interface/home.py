"""Where the runs of the Python interface are kept: among the stored ones, or in a folder of their own."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from analysis.storage import cache_folder, clear_abandoned, owned, storage_errors


class Home:
    """Where runs are. A folder of their own goes when nothing refers to it any more."""

    def __init__(self, stored: bool) -> None:
        """``stored``: whether they are kept with all others, as those of the command line are."""
        self.folder: Path | None = None
        """The folder of their own; ``None`` where they are stored."""
        if stored:
            return
        parent = cache_folder() / "memory"
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            clear_abandoned(parent)  # of programs that were killed
            self.folder = Path(tempfile.mkdtemp(prefix=owned(".runs"), dir=parent))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

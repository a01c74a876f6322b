"""Processes of our own: started with a connection, which closes when either end is gone.

Knows nothing about what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

_BEGIN = "import sys; sys.path[:] = {path!r}; from {module} import {function}; {function}({line})"


def start_child(module: str, function: str, **environment: str) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a fresh process that calls a function of a module, given the number of its end of the connection.

    Our end is returned with the process. ``environment`` is added to what this process has.
    """
    ours, theirs = multiprocessing.Pipe()
    line = theirs.fileno()
    # Streamlit puts a folder of ours first while it runs a page; modules in it would hide others there.
    path = [folder for folder in sys.path if not (folder and Path(folder, "__init__.py").is_file())]
    # Not a process of multiprocessing: forks survive neither threads nor CUDA, and a spawned process runs the
    # main module anew, which is the page itself once streamlit has run one.
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGIN.format(path=path, module=module, function=function, line=line)],
        pass_fds=[line],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for whoever started it, who says when to end
        env={**os.environ, **environment},
    )
    theirs.close()  # so that our end notices when the process is gone
    return ours, process

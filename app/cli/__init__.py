"""The command line: the same requests as the web, one command for each verb.

Results go to standard output, progress and errors to standard error; ``--json PATH`` writes a result for
scripts (``-`` for standard output). Knows nothing about streamlit until ``app`` is asked for.
"""

from app.cli.program import app, main

__all__ = ["app", "main"]

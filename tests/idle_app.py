"""The pages and the command line of an app that computes nothing, for tests of what they show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.cli import main

MAIN = Path(__file__).parents[1] / "app" / "main.py"


class Idle:
    """Stands in for the worker of the server."""

    active, report, opened, lost = (), None, None, ()

    def take_closed(self, _: str) -> list[Any]:
        """Nothing is ever open, so nothing is closed."""
        return []


def page(name: str, **parameters: str) -> AppTest:
    """A page as it is after it was opened with these words in its address."""
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    app.switch_page(f"app_pages/{name}.py").run()
    assert not app.exception
    return app


def said(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> tuple[int, str, str]:
    """The exit code of ``slicescope WORDS``, and what it wrote to its two outputs."""
    monkeypatch.setattr(sys, "argv", ["slicescope", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), *capsys.readouterr()

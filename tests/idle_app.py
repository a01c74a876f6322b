"""The pages and the command line of an app that computes nothing, for tests of what they show."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest, app_test

from app.cli import main

MAIN = Path(__file__).parents[1] / "app" / "main.py"
# Else every run of a page would compile it anew, with what the app's own settings switch off, and every
# session would look for components in all packages. Each takes longer than to draw the page.
config.set_option("runner.magicEnabled", False)
app_test.ScriptCache = cache(app_test.ScriptCache)  # type: ignore[misc]
app_test.BidiComponentManager.discover_and_register_components = lambda *_, **__: None  # type: ignore[method-assign]


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
    app.switch_page(f"app_pages/{name}.py").run()
    assert not app.exception
    return app


def said(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> tuple[int, str, str]:
    """The exit code of ``slicescope WORDS``, and what it wrote to its two outputs."""
    monkeypatch.setattr(sys, "argv", ["slicescope", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), *capsys.readouterr()

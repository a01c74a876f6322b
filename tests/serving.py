"""A real server of the app and a real browser, for the tests that need them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
]
MISSING = [name for name in ("playwright",) if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]


@contextmanager
def served(home: Path, *flags: str) -> Iterator[str]:
    """The address of a server with runs of its own, which must end without a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "app", "--port", str(port), "--no-open", *flags],
            env={**os.environ, "SLICESCOPE_HOME": str(home), "HOME": str(home), "PYTHONPATH": str(ROOT)},
            cwd=home,
            stdout=file,
            stderr=file,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)
    assert "Traceback" not in log.read_text()


def _wait_for(address: str, server: subprocess.Popen[Any], log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"The server did not start: {log.read_text()}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def visit(browser: Any, url: str, **context: Any) -> Any:
    """A page of a session of its own, once it has drawn its title and nothing runs any more."""
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    settle(page)
    return page


def settle(page: Any) -> None:
    """Wait until the page has a title, and the script that draws it has ended."""
    page.locator("h1").first.wait_for()
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.evaluate("document.fonts.ready")

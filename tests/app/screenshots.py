"""Take the pictures in ``assets/screenshots`` anew: ``make screenshots``. Not a test.

Serves the app without runs of its own, so that the pictures show the comparison that ships with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[2] / "assets" / "screenshots"
PAGES = {"profile": "", "tune": "tune", "compare": "compare"}
PORT = 8599
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    """One picture of each page in light and in dark."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "app", "--port", str(PORT), "--no-open"],
            env={**os.environ, "SLICESCOPE_HOME": home},
        )
        try:
            wait_for(f"http://127.0.0.1:{PORT}/_stcore/health")
            take()
        finally:
            server.terminate()
            server.wait(30)


def take() -> None:
    """Visit every page in both schemes."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1280, "height": 1000}, color_scheme=scheme, device_scale_factor=1
            )
            page = context.new_page()
            for name, path in PAGES.items():
                page.goto(f"http://127.0.0.1:{PORT}/{path}")
                page.locator(".js-plotly-plot .bars .point").nth(1).wait_for(timeout=60_000)
                page.wait_for_timeout(2000)  # fonts and transitions
                page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
        browser.close()


def wait_for(address: str) -> None:
    """Return as soon as the server is up."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"Nothing answers at {address}: start the app by hand to see why.")


if __name__ == "__main__":
    main()

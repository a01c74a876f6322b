"""The app as a user starts it: it opens the browser, and shows pages on which everything is ours.

The home is that of somebody to whom Streamlit would show its advertisement, with settings of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from serving import MISSING, Server, look, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
SETTINGS = """
[server]
headless = false
enableStaticServing = true
[client]
toolbarMode = "developer"
showErrorDetails = "full"
[browser]
gatherUsageStats = true
serverAddress = "elsewhere.example"
[runner]
magicEnabled = true
[magic]
displayRootDocString = true
[global]
developmentMode = true
[ui]
hideTopBar = true
[theme]
primaryColor = "#ff0000"
backgroundColor = "#330000"
"""
IS_ADVERTISED = """
from streamlit import config
from streamlit.web.skills import nudge_suppression_reason
config.set_option("server.headless", False)
print(nudge_suppression_reason() == "")
"""
BROWSER = '#!/bin/sh\necho "$@" >> opened.txt\necho noise\necho noise >&2\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / ".cursor").mkdir()  # of a development environment
    browser = home / "browser"
    browser.write_text(BROWSER)
    browser.chmod(0o700)
    with serving(home, "--open", BROWSER=str(browser)) as server:
        yield server


@pytest.fixture(scope="module")
def server_with_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("settings")
    (home / ".cursor").mkdir()
    (home / ".streamlit").mkdir()
    (home / ".streamlit" / "config.toml").write_text(SETTINGS)  # of the user, and of the working folder
    # Without a browser: what Python would open instead is one in the terminal.
    with serving(home, "--open", DISPLAY="", WAYLAND_DISPLAY="", BROWSER="") as server:
        yield server


def test_streamlit_would_advertise_in_this_home(server: Server) -> None:
    environment = {**os.environ, "HOME": str(server.home)}
    command = [sys.executable, "-c", IS_ADVERTISED]
    answer = subprocess.run(
        command, env=environment, cwd=server.home, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "True"


def greeting(server: Server) -> str:
    """What is in the terminal, once the app has said where it is."""
    for _ in range(300):
        if server.address in server.log.read_text():
            break
        time.sleep(0.1)
    return server.log.read_text()


def test_the_browser_is_opened_once_and_the_terminal_has_one_line(server: Server) -> None:
    assert greeting(server).strip() == f"slicescope is at {server.address} (Ctrl-C ends it)."
    opened = server.home / "opened.txt"
    for _ in range(300):
        if opened.exists() and opened.read_text():
            break
        time.sleep(0.1)
    assert opened.read_text() == f"{server.address}\n"
    assert "noise" not in server.log.read_text()


def test_without_a_browser_the_line_is_all(server_with_settings: Server) -> None:
    said = f"slicescope is at {server_with_settings.address} (Ctrl-C ends it)."
    assert greeting(server_with_settings).strip() == said


@pytest.mark.skipif(sys.platform == "win32", reason="the loop that sends at once is not made for Windows")
def test_small_answers_are_sent_at_once(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    took = []
    for _ in range(30):
        begun = time.perf_counter()
        connection.request("GET", "/_stcore/health")
        assert connection.getresponse().read() == b"ok"
        took.append(time.perf_counter() - begun)
    connection.close()
    # Where a body waits for the receipt of its head, all behind the first few take 40 ms and more.
    assert min(took[15:]) < 0.03


def check_page(page: Any) -> None:
    """Everything on the page is ours."""
    page.wait_for_timeout(1000)  # the advertisement comes after the page
    assert page.get_by_test_id("stSkillsNudge").count() == 0
    assert page.get_by_test_id("stAppDeployButton").count() == 0
    assert "The entry script of the app" not in page.inner_text("body")
    colour = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"


def check_menu(page: Any) -> None:
    """The menu has what is of use here."""
    page.get_by_test_id("stMainMenu").get_by_role("button").click()
    menu = page.get_by_test_id("stMainMenuPopover")
    menu.get_by_text("Print").wait_for()
    words = menu.inner_text().split("\n")
    assert [word for word in words if word[:1].isupper()] == ["System", "Light", "Dark", "Print"]


@pytest.mark.parametrize("path", ["", "runs", "talk?present=1"])
def test_nothing_of_streamlit_lies_over_a_page(server: Server, browser: Any, path: str) -> None:
    page = look(browser, f"{server.address}/{path}")
    check_page(page)
    if "present" not in path:
        check_menu(page)


def test_settings_of_the_user_change_no_page(server_with_settings: Server, browser: Any) -> None:
    page = look(browser, server_with_settings.address)
    check_page(page)
    check_menu(page)


def test_the_port_of_another_server_is_not_taken_for_ours(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "app", "--open", "--port", str(server.port)]
    root = str(Path(__file__).parents[2])
    opened = tmp_path / "opened.txt"
    environment = {**os.environ, "BROWSER": f"touch {opened} #%s", "PYTHONPATH": root}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 1 and not opened.exists()
    assert "Traceback" not in answer.stderr and "slicescope is at" not in answer.stdout

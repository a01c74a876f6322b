"""Many random actions from three sessions against one server: ``make soak``. Part of it is a test.

People move about, measure, tune, drag bars and widths, write, wish for models, study, tell the story, look
on, cancel, stop and unload; now and then the engine is killed. In the end there must have been no exception
on any page, in any browser or in the log, one engine, every run whole, and the memory of server and engine
back to within a tenth of the start.

``python tests/app/soak.py 200 0 small`` does as many actions, by the seed 0, on a small model in the place of
the demo model: on a machine that is busy, jobs on the demo model take minutes.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
from gguf_files import small_demo
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from serving import (
    ROOT,
    Server,
    chromium,
    fill,
    measure,
    place_of,
    serving,
    settle,
    share_demo,
    unfold,
    visit,
)

from analysis.storage import queue_folder
from slicing.studies.store import list_runs

ADDRESSES = {"Make it smaller": "shrink"}
"""Of the pages whose address is not their name."""
PAGES = ("Make it smaller", "Model", "Profile", "Tune", "Compare", "Play", "Study", "Runs")
TABS = (
    *("Tokens", "Depth by depth", "Heads and MLP", "Logit lens"),
    *("Against damage", "Beside other runs", "Units", "Difference"),
)
ROW = 35
"""Pixels of a row of a table, and of its head."""
SESSIONS = 3
WHOLE = 200
"""So many actions do everything that people can do here, each thing at least once."""


class Person:
    """One session, and what can be done in it. An act that found nothing to do answers ``False``."""

    def __init__(self, server: Server, browser: Any, chance: random.Random) -> None:
        self.server, self.chance, self.lost = server, chance, 0
        self.page = visit(browser, server.address, viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(90_000)
        self.said: Counter[str] = Counter()
        """What the browser's console said, and how often."""
        self.thrown: Counter[str] = Counter()
        """What scripts of the page failed with, and how often."""
        self.page.on("console", lambda said: self.said.update([f"{said.text} {said.location['url']}"[:2000]]))
        self.page.on("pageerror", lambda error: self.thrown.update([f"{error} {error.stack}"[:2000]]))
        self.acts: dict[Callable[[], bool | None], int] = {
            self.move_about: 4,
            self.tune: 4,
            self.drag_a_bar: 5,
            self.drag_the_width: 6,
            self.cut_inside: 3,
            self.measure: 4,
            self.look_near: 4,
            self.hold_against_another: 4,
            self.note_a_block: 4,
            self.compare: 2,
            self.write: 5,
            self.wish: 5,
            self.study: 2,
            self.tell: 6,
            self.speak: 4,
            self.read_the_notes: 4,
            self.open_what_ships: 3,
            self.keep_order: 3,
            self.see_together: 3,
            self.watch: 3,
            self.cancel: 4,
            self.load_or_unload: 2,
            self.reload: 2,
            self.kill_the_engine: 2,
        }
        """What can be done, and how often it is."""

    def act(self) -> tuple[str, bool]:
        """Do something; its name, and whether there was something to do."""
        act = self.chance.choices(list(self.acts), list(self.acts.values()))[0]
        return act.__name__, self.do(act)

    def do(self, act: Callable[[], bool | None]) -> bool:
        """Do this, and look whether it ended well; whether there was something to do."""
        try:
            found = act() is not False
            settle(self.page)
        except PlaywrightTimeout as error:
            raise AssertionError(f"{act.__name__} found no end: {error}\n{self.seen()}") from error
        broken = self.page.get_by_test_id("stException")
        assert broken.count() == 0, f"{act.__name__}: {broken.first.inner_text()}"
        assert not self.thrown, f"{act.__name__}: {dict(self.thrown)}"
        return found

    def seen(self) -> str:
        """What the page shows and said, for a person who has to find out why it stands still."""
        picture = Path(tempfile.gettempdir()) / "slicescope-soak.png"
        self.page.screenshot(path=picture)
        said = "\n".join(f"{count} x {text}" for text, count in (self.said + self.thrown).items())
        return f"{self.page.url} ({picture}) holds {self.page.content()[:500]}\nand said:\n{said}"

    # How people do things

    def go(self, name: str) -> None:
        """Open a page by its name in the navigation, which is not there while the story is told."""
        self.leave()
        link = self.page.get_by_test_id("stTopNavLink").filter(has_text=name)
        for _ in range(4):  # a click at the moment in which a job ends can be lost in the redraw
            link.click()
            self.page.mouse.move(2, 500)
            try:
                self.page.wait_for_url(f"**/{ADDRESSES.get(name, name.lower())}*", timeout=15_000)
            except PlaywrightTimeout:
                self.lost += 1
                continue
            settle(self.page)
            return
        raise AssertionError(f"The page {name} does not open.")

    def is_telling(self) -> bool:
        """Whether the story is on the screen."""
        return self.page.locator(".st-key-talk").count() > 0

    def leave(self) -> None:
        """Leave the story, where it is told."""
        for _ in range(4):  # what lies over a slide takes the first
            if not self.is_telling():
                return
            self.page.keyboard.press("Escape")
            with suppress(PlaywrightTimeout):
                self.page.locator(".st-key-talk").wait_for(state="detached", timeout=15_000)
            settle(self.page)
        raise AssertionError(f"Escape does not leave the talk. {self.seen()}")

    def click(self, part: Any) -> bool:
        """Click on something, where it is there and can be clicked now."""
        try:
            part.click(timeout=1500)
        except PlaywrightTimeout:
            return False
        settle(self.page)
        return True

    def press(self, name: str | re.Pattern[str]) -> bool:
        """Press a button, where there is one that can be pressed now."""
        exact = isinstance(name, str)
        return self.click(self.page.get_by_role("button", name=name, exact=exact).first)

    def choose(self, label: str) -> bool:
        """Choose some entry of a list, where there is one."""
        field = self.page.get_by_role("combobox", name=label).first
        if not self.click(field):
            return False
        entries = self.page.get_by_role("option")
        with suppress(PlaywrightTimeout):
            entries.first.wait_for(timeout=5000)
        if count := entries.count():
            return self.click(entries.nth(self.chance.randrange(count)))
        self.page.keyboard.press("Escape")
        return False

    def hold(self, part: Any, across: float, up: float) -> None:
        """Take something by its middle with the mouse, so many pixels away, and let it go."""
        part.scroll_into_view_if_needed()
        box = place_of(self.page, part)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + across, y - up, steps=5)
        self.page.wait_for_timeout(
            self.chance.choice([0, 1500])
        )  # while it is held the page may be drawn anew
        self.page.mouse.up()
        settle(self.page)

    # What people do

    def move_about(self) -> None:
        self.go(self.chance.choice(PAGES))

    def slice(self) -> None:
        """Open the half of the Tune page that slices the width."""
        self.go("Tune")
        self.click(self.page.get_by_test_id("stButtonGroup").get_by_text("Slice the width", exact=True))

    def tune(self) -> None:
        self.slice()
        slider = self.page.get_by_role("slider", name="Target (SP)").first  # an older one may still fade
        for _ in range(self.chance.randint(1, 6)):
            slider.press(self.chance.choice(["ArrowLeft", "ArrowRight"]))
        if self.chance.random() < 0.3:
            self.press("Undo")

    def drag_a_bar(self) -> bool:
        """Drag the top of a bar of the plan, towards where there is room; it stands elsewhere then."""
        self.slice()
        handles = self.page.locator(".slicescope-handles .handle")
        with suppress(PlaywrightTimeout):
            handles.first.wait_for(timeout=20_000)
        if not handles.count():
            return False
        handle = handles.nth(self.chance.randrange(handles.count()))
        for _ in range(3):  # the page may move below the mouse
            before = float(handle.get_attribute("aria-valuenow"))
            high = float(handle.get_attribute("aria-valuemax"))
            self.hold(handle, 0, -40 if before > high / 3 else 60)
            for _ in range(100):
                now = float(handle.get_attribute("aria-valuenow"))
                if now != before and handle.get_attribute("data-value") is None:
                    return True
                self.page.wait_for_timeout(100)
            self.lost += 1
        raise AssertionError(f"A bar does not move. {self.seen()}")

    def drag_the_width(self) -> bool:
        """Drag the width of the cloud, on the Profile or on the Tune page; it is another one then."""
        if self.chance.random() < 0.5:
            self.slice()
        else:
            self.go("Profile")
        dial = self.page.get_by_role("slider", name="Width of the stream")
        if not dial.count():  # the run kept no token states
            return False
        counter = self.page.locator(".slicescope-cloud .width b")
        for _ in range(3):  # the page may move below the mouse
            self.page.wait_for_timeout(4000 if self.page.evaluate("window.slicescopeCloud?.moving") else 0)
            before = counter.inner_text()
            share = float(before) / float(dial.get_attribute("max"))
            dial.scroll_into_view_if_needed()
            box = place_of(self.page, dial)
            at = lambda x, box=box: box["x"] + 8 + x * (box["width"] - 16)  # noqa: E731
            self.page.mouse.move(at(share), box["y"] + box["height"] / 2)
            self.page.mouse.down()
            to = at(share - 0.2 if share > 0.6 else share + 0.2)
            self.page.mouse.move(to, box["y"] + box["height"] / 2, steps=5)
            self.page.wait_for_timeout(self.chance.choice([0, 1500]))
            self.page.mouse.up()
            for _ in range(100):
                settle(self.page)
                if counter.count() == 1 and counter.inner_text() != before:
                    return True
                self.page.wait_for_timeout(100)
            self.lost += 1
        raise AssertionError(f"The width does not move. {self.seen()}")

    def cut_inside(self) -> bool:
        """Plan a cut inside the blocks, or have measured what that takes."""
        self.go("Tune")
        self.click(self.page.get_by_test_id("stButtonGroup").get_by_text("Cut inside blocks", exact=True))
        slider = self.page.get_by_role("slider", name="Fewer parameters").first
        if slider.count():
            for _ in range(self.chance.randint(1, 4)):
                slider.press(self.chance.choice(["ArrowLeft", "ArrowRight"]))
            return True
        return self.press(re.compile("^Measure the costs"))

    def measure(self) -> None:
        self.go("Profile")
        measure(self.page, self.chance.choice([2, 3, 4, 40]))

    def look_near(self) -> None:
        """Walk through blocks, and look at a profile from near."""
        self.go("Profile")
        for _ in range(self.chance.randint(0, 3)):
            self.press(self.chance.choice(["Next", "Back"]))
        self.click(self.page.get_by_role("tab", name=self.chance.choice(TABS), exact=True))

    def hold_against_another(self) -> bool:
        """Look at what parts a profile from another one."""
        self.go("Profile")
        if not self.click(self.page.get_by_role("tab", name="Difference", exact=True)):
            return False
        found = self.choose("Held against")
        if self.chance.random() < 0.5:
            self.click(self.page.get_by_text("In percent", exact=True))
        return found

    def note_a_block(self) -> bool:
        """Keep a note on a block of a stored run; it stands beside the chart then."""
        self.go("Profile")
        said = f"note {self.chance.randrange(10**6)}"
        for _ in range(3):  # what is being written is lost where a job ends and its run is shown
            if not self.press(re.compile("^Note on block")):
                return False  # the run that ships
            self.page.get_by_role("textbox", name="What to remember about block").fill(said)
            self.press("Keep the note")
            with suppress(PlaywrightTimeout):
                self.page.get_by_text(said).first.wait_for(timeout=15_000)
                return True
            self.lost += 1
        raise AssertionError(f"A note is not kept. {self.seen()}")

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

    def write(self) -> bool:
        """Let the models of some choice write, and now and then stop them."""
        self.go("Play")
        if self.press("Stop"):
            return True
        self.choose("Smaller model")
        folder = self.page.get_by_label("Folder of the smaller model", exact=True)
        if folder.count():
            folder.fill(str(self.server.home / "small"))
            folder.press("Enter")
            settle(self.page)
        unfold(self.page, "Length, temperature")
        fill(self.page, "Tokens to write", self.chance.choice([3, 12, 40]))
        self.page.get_by_label("Tokens to write", exact=True).press("Tab")
        settle(self.page)
        if not self.press(re.compile("^Write")):
            return False
        self.page.wait_for_timeout(self.chance.choice([0, 3000, 10_000]))
        if self.chance.random() < 0.3:
            self.press("Stop")
        return True

    def wish(self) -> bool:
        """Say how small it should be, look at what is known of that, and now and then have it made."""
        self.go("Make it smaller")
        if self.chance.random() < 0.7:
            self.press("Another wish")
        elif self.press("Go on"):
            return True
        slider = self.page.get_by_role("slider", name="Fewer parameters").first
        if not slider.count():
            return False  # what was wished for, or is being made
        for _ in range(self.chance.randint(0, 4)):
            slider.press(self.chance.choice(["ArrowLeft", "ArrowRight"]))
        settle(self.page)
        what = self.chance.random()
        if what < 0.4:
            return self.choose("Look at")
        if what < 0.5:
            return self.press(re.compile("^Make and keep this model"))
        unfold(self.page, "Texts, windows, tasks")
        for label, value in (
            *(("Evaluation windows", 2), ("Calibration windows", 2), ("Window length, tokens", 64)),
            *(("Windows of previews", 2), ("Search windows", 2), ("Rounds of timing", 0)),
        ):
            fill(self.page, label, value)
            self.page.get_by_label(label, exact=True).press("Tab")
        self.page.get_by_label("Minutes", exact=True).fill("0.1")
        self.page.get_by_label("Minutes", exact=True).press("Tab")
        settle(self.page)
        return self.press(re.compile("^Find the best way"))

    def study(self) -> None:
        self.go("Study")
        unfold(self.page, "A new study of")
        fill(self.page, "Calibration windows", 2)
        fill(self.page, "Evaluation windows", self.chance.choice([2, 3]))
        fill(self.page, "Window length, tokens", 64)
        self.press("Run")

    def begin_to_tell(self) -> None:
        """Open the story of a run that ships, where none is told."""
        if self.is_telling():
            return
        self.go("Runs")
        ways = self.page.locator("[class*='st-key-ships-']").get_by_role("link", name="Present")
        ways.nth(self.chance.randrange(ways.count())).click()
        self.page.locator(".st-key-talk").wait_for()
        settle(self.page)

    def tell(self) -> None:
        """Go through scenes by keys, guess, turn what they have to turn, and change light and dark."""
        self.begin_to_tell()
        keys = [*5 * ["ArrowRight"], "ArrowLeft", "PageDown", "PageUp", "1", "2", "ArrowUp", "ArrowDown"]
        for _ in range(self.chance.randint(3, 12)):
            self.page.keyboard.press(self.chance.choice(keys))
            if self.chance.random() < 0.6:
                settle(self.page)
        settle(self.page)
        for key in ("?", "q"):
            if self.chance.random() < 0.3:
                self.page.keyboard.press(key)
                self.page.get_by_role("dialog").wait_for()
                self.page.keyboard.press("Escape")
                self.page.get_by_role("dialog").wait_for(state="detached")
        dial = self.page.get_by_role("slider", name="Width of the stream")
        if dial.count():
            self.hold(dial, self.chance.choice([-80, 80]), 0)
        if self.chance.random() < 0.3:
            with self.page.expect_navigation():
                self.page.keyboard.press("d")
            settle(self.page)
            assert self.is_telling(), f"Light and dark lead out of the talk. {self.seen()}"

    def speak(self) -> None:
        """Open the speaker's window, which moves the story and follows it."""
        self.begin_to_tell()
        self.page.locator(".slicescope-desk").wait_for(state="attached")
        with self.page.expect_popup() as opened:
            self.page.keyboard.press("s")
        window = opened.value
        window.locator("h1").wait_for()
        for _ in range(self.chance.randint(1, 3)):
            window.keyboard.press(self.chance.choice(["ArrowRight", "ArrowLeft", "PageDown", "1"]))
            settle(self.page)
        for _ in range(100):
            title = self.page.locator("h1").first.inner_text()
            if window.locator("h1").inner_text().endswith(title):
                break
            self.page.wait_for_timeout(100)
        else:
            raise AssertionError(f"The speaker reads of another scene. {self.seen()}")
        window.close()

    def read_the_notes(self) -> None:
        """Open the notes for teachers, choose another run for the talk, and follow a link from there."""
        self.begin_to_tell()
        self.page.locator(".st-key-talk-foot").get_by_role("link", name="Notes").click()
        self.page.get_by_role("heading", name="Notes for teachers").wait_for()
        settle(self.page)
        stories = self.page.locator(".st-key-screen-which").get_by_role("radio")
        self.click(stories.nth(self.chance.randrange(max(1, stories.count()))))
        ways = self.page.get_by_role("link", name=re.compile("^(Start|Slides|Try it|Show this step)"))
        self.click(ways.nth(self.chance.randrange(ways.count())))

    def open_what_ships(self) -> bool:
        """Open a run that ships on the page of some view."""
        self.go("Runs")
        ways = self.page.locator("[class*='st-key-ships-']").get_by_role("button")
        return self.click(ways.nth(self.chance.randrange(ways.count())))

    def keep_order(self) -> bool:
        """Name a run, or throw it away and mostly take it back."""
        self.go("Runs")
        if self.chance.random() < 0.5:
            if not self.press("Name and note"):
                return False
            self.page.get_by_label("Name", exact=True).fill(f"run {self.chance.randrange(100)}")
            return self.press("Keep")
        if not self.press("Delete"):
            return False
        return self.chance.random() < 0.2 or self.press("Undo")

    def see_together(self) -> bool:
        """Select rows of the table of runs, which shows them together."""
        self.go("Runs")
        table = self.page.locator(".st-key-runs").get_by_test_id("stDataFrameResizable")
        runs = int(table.get_attribute("aria-label").split()[0]) if table.count() else 0
        if runs < 2:
            return False
        table.scroll_into_view_if_needed()
        for row in range(min(runs, self.chance.randint(2, 3))):
            table.click(position={"x": 18, "y": ROW * (row + 1.5)})
            settle(self.page)
        return self.page.get_by_role("heading", name="Profiles", exact=True).count() > 0

    def watch(self) -> None:
        """Look on while jobs run, as people do; else none would come to its end between kills and cancels."""
        for _ in range(30):
            if self.page.locator(".st-key-job").count() == 0:
                return
            self.page.wait_for_timeout(1000)

    def cancel(self) -> bool:
        return self.press("Cancel") or self.press("Stop now")

    def load_or_unload(self) -> bool:
        self.go("Model")
        return self.press(self.chance.choice(["Load", "Unload"]))

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


def soak(home: Path, actions: int, seed: int = 0, small: bool = False) -> str:
    """Do so many actions; what was done and left, in a paragraph. Raises when something is wrong.

    ``small``: on a model of the demo's depth in its place, whose jobs take seconds on a busy machine too.
    """
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    vain: Counter[str] = Counter()
    environment = {}
    if small:
        (home / "cache").mkdir(parents=True)
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{small_demo(home / 'packages')}"
    else:
        share_demo(home)
    make_smaller(home, environment)
    with serving(home, **environment) as server, chromium() as browser:
        people = [Person(server, browser, chance) for _ in range(SESSIONS)]
        for person in people:  # every page once, so that what is loaded once is loaded
            for name in PAGES:
                person.go(name)
            person.do(person.tell)
        until(lambda: server.engines(), "an engine")
        people[0].go("Profile")
        measure(people[0].page, 5)  # a job, for the same reason
        until(lambda: list((home / "runs").glob("*/run.json")), "run", seconds=180)
        before = people[0].unloaded()
        begun = time.monotonic()
        for number in range(actions):
            try:
                name, found = chance.choice(people).act()
            except AssertionError as error:
                raise AssertionError(f"Action {number}: {error}\n{server.stacks()}") from error
            (done if found else vain)[name] += 1
            tell(f"{time.monotonic() - begun:5.0f} s  {number:3} {name}{'' if found else ': nothing to do'}")
        took, lost = time.monotonic() - begun, sum(person.lost for person in people)
        for person in people:
            person.idle()
            person.page.context.close()
        after = Person(server, browser, chance).unloaded()
        assert len(server.engines()) == 1, server.engines()
        with patch.dict(os.environ, SLICESCOPE_HOME=str(home)):
            stored, broken = list_runs()
            left = list(queue_folder().iterdir()) if queue_folder().is_dir() else []
        kinds = Counter(run.request.kind for run in stored)
        told = (
            f"{actions} actions of {SESSIONS} sessions in {took:.0f} s (done: {dict(done)}; nothing to do: "
            f"{dict(vain)}; {lost} clicks or drags repeated): no exception, one engine, "
            f"{len(stored)} runs whole ({dict(kinds)}), memory {mebibytes(before)} before and "
            f"{mebibytes(after)} after ({sum(after) / sum(before) - 1:+.1%})."
        )
        assert sum(after) <= 1.1 * sum(before), f"the memory grew: {told}"
        assert broken == []
        assert left == []
        drafts = {path.name for path in (home / "runs").iterdir() if path.name.startswith(".")}
        assert drafts <= {".trash", ".profiles", ".index.json"}, drafts
    assert stored or actions < 50, "no job came to its end"
    idle = {act.__name__ for act in people[0].acts} - set(done)
    assert not idle or actions < WHOLE, f"nobody found anything to do in {idle}"
    return told


def make_smaller(home: Path, environment: dict[str, str]) -> None:
    """Write a smaller model beside the home's runs, which writes on the Play page."""
    subprocess.run(
        [
            *(sys.executable, "-m", "app.cli", "slice", "--out", str(home / "small")),
            *("--calibration-windows", "2", "--evaluation-windows", "2", "--window-length", "64"),
        ],
        env={"PYTHONPATH": str(ROOT), **os.environ, "SLICESCOPE_HOME": str(home), **environment},
        check=True,
        capture_output=True,
    )


def tell(line: str) -> None:
    """Print a line at once, for whoever looks on."""
    print(line, flush=True)  # noqa: T201


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
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    with tempfile.TemporaryDirectory() as folder:
        tell(soak(Path(folder), *(numbers or [WHOLE]), small="small" in sys.argv))

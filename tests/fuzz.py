"""Wrong commands by the hundred, each in a process of its own: ``make fuzz``. Some of them are a test.

A command is bad when it ends in a traceback, by a signal or not at all; is done where it must be refused, or
refused where it must be done; has more to say about one error than a screen shows, or sends control
characters to the terminal; replaces a link, a pipe or a folder; or leaves half of what it wrote.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "80",
}
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from fuzz_cases import Case, all_cases, furnish  # noqa: E402

PATIENCE = 20
"""Seconds of a processor that a case may take; on a clock five times as many, since others work too."""
SCREEN = 15
"""Lines of 80 characters that one error may take."""
MEMORY, DISK = 8 * 2**30, 2**28
"""Bytes that a case may take."""
BROKEN = 70
"""The exit code of a case that ended in an exception."""
SUFFIXES = (".out", ".err")
"""Of the files beside a case's folder that hold what it said."""
DRAFT = re.compile(r"\.slicescope-|-[0-9a-f]{8}-\w+(-old)?(/|$)")
"""What half an output is called."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


class Outcome(NamedTuple):
    """What became of a case."""

    status: int | None
    """As ``os.waitpid`` gives it; ``None`` where it did not end."""
    out: str
    err: str
    before: dict[str, str]
    after: dict[str, str]


# A case in a process of its own


class Attempt:
    """A case in the folder ``place``, which is made for it and taken away once it has ended."""

    def __init__(self, case: Case, place: Path, world: Path) -> None:
        self.case, self._place = case, place
        place.mkdir()
        furnish(place, world)
        if case.change:
            case.change(place)
        self._before = contents(place)
        self._end = time.monotonic() + 5 * PATIENCE
        self._pid = os.fork()
        if not self._pid:
            _child(case, place)

    def outcome(self) -> Outcome | None:
        """What became of it; ``None`` while it goes on."""
        ended, status = os.waitpid(self._pid, os.WNOHANG)
        if not ended and time.monotonic() < self._end:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)  # whatever it started too
        if not ended:
            os.waitpid(self._pid, 0)
        out, err = (
            self._place.with_suffix(suffix).read_bytes().decode("utf-8", "replace") for suffix in SUFFIXES
        )
        found = Outcome(status if ended else None, out, err, self._before, contents(self._place))
        shutil.rmtree(self._place)
        return found


def _child(case: Case, place: Path) -> None:
    code = BROKEN
    try:
        os.setsid()
        os.chdir(place)
        os.open("pipe", os.O_RDWR)  # whoever writes into it finds a reader
        told = (place.with_suffix(suffix) for suffix in SUFFIXES)
        for number, path in enumerate((Path(os.devnull), *told)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # type: ignore[union-attr]
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 5))
        for limit, most in (
            (resource.RLIMIT_AS, MEMORY),
            (resource.RLIMIT_FSIZE, DISK),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (most, most))
        os.environ |= {"HOME": str(place / "home"), "SLICESCOPE_HOME": case.home or str(place / "home")}
        if case.words[:1] == ("address",):
            _visit(*case.words[1:])
            code = 0
        else:
            code = _run(case.words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(words: tuple[str, ...]) -> int:
    import streamlit

    from app import cli

    streamlit.App.run = lambda *_, **__: None  # type: ignore[method-assign]
    sys.argv = ["slicescope", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


class _Parameters(dict[str, str]):
    """The parameters of an address, as streamlit gives them."""

    def to_dict(self) -> dict[str, str]:
        return dict(self)

    def from_dict(self, values: dict[str, str]) -> None:
        self.clear()
        self.update(values)


def _visit(name: str, value: str) -> None:
    """Read an address as pages do."""
    from app import plan_state, state, talk_state

    page = SimpleNamespace(query_params=_Parameters({name: value}), session_state={})
    page.user = _Parameters()
    page.session_state["owner"] = "me"
    for module in (state, plan_state, talk_state):
        module.st = page  # type: ignore[assignment]
    if name == "step":
        assert 1 <= talk_state.talk(7).step <= 7
    elif name == "shares":
        _, begun = plan_state.begun_shares((0.25,) * 3)
        assert all(0.0 <= share < 1.0 for share in begun), begun
    else:
        page.session_state[f"{name}-run"] = value
        assert state.shown(name)  # type: ignore[arg-type]


# What is wrong with an outcome


def contents(place: Path) -> dict[str, str]:
    """What lies in a folder: the kind of everything, and what files hold and links lead to."""
    found: dict[str, str] = {}
    for path in sorted(place.rglob("*")):
        name, mode = str(path.relative_to(place)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = f"link to {path.readlink()}"
        elif stat.S_ISREG(mode):
            found[name] = "file " + (path.read_text() if path.name in ("mine.txt", "inside.txt") else "")
        else:
            found[name] = f"kind {stat.S_IFMT(mode)}"
    return found


def faults(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with it, in words; nothing where it is well."""
    found: list[str] = []
    status, told = outcome.status, outcome.out + outcome.err
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code is None or code == -signal.SIGXCPU:
        return ["no end"]
    if code < 0:
        return [f"signal {-code}"]
    if code == BROKEN or "Traceback (most recent call last)" in told:
        last = outcome.err.strip().splitlines()[-1:] or [""]
        return [f"traceback: {last[0][:300]}"]
    if case.refused is not None and case.refused == (code == 0):
        found.append("done, and must be refused" if case.refused else f"refused ({code}), and must be done")
    if code and not told.strip():
        found.append("refused without a word")
    lines = error_lines(outcome.err)
    if code and lines > SCREEN:
        found.append(f"{lines} lines for one error")
    if CONTROL.search(told.replace("\r", "")):
        found.append("control characters")
    return found + _changes(code, outcome) + _outputs(case, code, outcome)


def error_lines(text: str) -> int:
    """How many lines of a screen an error takes, bars and warnings in front of it left out."""
    told = text.partition("slicescope: ")[2] or text
    return sum(1 + max(0, len(line) - 1) // 80 for line in told.splitlines() if "━" not in line)


def _changes(code: int, outcome: Outcome) -> list[str]:
    """What was taken away or replaced, and what was left behind."""
    found: list[str] = []
    for name, kind in outcome.before.items():
        now = outcome.after.get(name, "nothing")
        if name.startswith("home/"):
            continue
        if kind.split(" ")[0] != now.split(" ")[0] or (kind != now and not kind.startswith("file")):
            found.append(f"'{name}' was {kind} and is {now[:40]}")
        elif kind != now and code:
            found.append(f"'{name}' was written by a command that was refused")
    for name in outcome.after.keys() - outcome.before.keys():
        if DRAFT.search(name):
            found.append(f"'{name[:80]}' was left behind")
        elif code and not name.startswith("home/"):
            found.append(f"'{name[:80]}' was made by a command that was refused")
    return found


def _outputs(case: Case, code: int, outcome: Outcome) -> list[str]:
    if code or "--json=-" not in case.words:
        return []
    try:
        json.loads(outcome.out)
    except ValueError as error:
        return [f"no JSON: {error}"]
    return []


# All of them


def make_world(world: Path) -> None:
    """A tiny model, and a home with stored runs."""
    pid = os.fork()  # so that no thread of the work is there when cases fork
    if not pid:
        code = 1
        try:
            os.environ["SLICESCOPE_HOME"] = str(world / "home")
            from conftest import byte_tokenizer, tiny_model

            from slicing.studies.store import bundled_run, keep_run

            tiny_model("llama").save_pretrained(world / "tiny")
            byte_tokenizer().save_pretrained(world / "tiny")
            keep_run(bundled_run())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "the tiny model could not be made"


def shown(case: Case) -> str:
    """A command for people, its long words cut."""
    words = [word if len(word) < 60 else f"{word[:20]}...({len(word)})" for word in case.words]
    home = f"SLICESCOPE_HOME={case.home[:20]} " if case.home else ""
    return home + ascii(shlex.join(["slicescope", *words]))[1:-1]


def fuzz(cases: list[Case], workers: int) -> int:
    """Try the cases, so many at a time, print the bad ones, and say how many there were."""
    torch.set_num_threads(1)
    # Imported once: every case is a copy of this process.
    for name in ("app.serve", "app.state", "app.tables", "slicing.studies.run"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else every case would look at, and so copy, all that was imported
    bad, kinds = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        make_world(world)
        waiting, tried = enumerate(cases), list[Attempt]()
        while True:
            for number, case in islice(waiting, workers - len(tried)):
                tried.append(Attempt(case, world / f"case-{number}", world))
            if not tried:
                break
            for each in [*tried]:
                if (outcome := each.outcome()) is None:
                    continue
                tried.remove(each)
                if wrong := faults(each.case, outcome):
                    bad += 1
                    kinds.update(re.sub(r"^\d+ |'.*'|:.*| \(\d+\)", "", one).strip() for one in wrong)
                    print(f"{shown(each.case)}\n    {'; '.join(wrong)}", flush=True)  # noqa: T201
            time.sleep(0.005)
    for kind, count in kinds.most_common():
        print(f"{count:4} {kind}")  # noqa: T201
    print(f"{len(cases)} tried, {bad} bad")  # noqa: T201
    return bad


def main(arguments: list[str]) -> int:
    """The exit code: 0 where none is bad."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int, help="so many of those that are refused quickly")
    parser.add_argument("--workers", type=int, default=1, help="so many at a time")
    parser.add_argument("words", nargs="*", help="those alone whose command holds one of these")
    asked = parser.parse_args(arguments)
    cases = [
        each for each in all_cases() if any(word in " ".join(each.words) for word in asked.words or [""])
    ]
    if count := asked.sample:
        quick = [each for each in cases if each.refused and not {"--tasks", "--executor"} & {*each.words}]
        cases = [quick[place * len(quick) // count] for place in range(count)]
    return int(fuzz(cases, asked.workers) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

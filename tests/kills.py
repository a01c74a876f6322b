"""Commands killed at random moments: ``make kills``. A few of the kills are a test.

Half of the kills come after a share of the time that the command takes, half just before one of its changes
on the disk. After each, everything must be as it was or as the command makes it, never half. The command is
then started again: it must end well, in the state in which it ends undisturbed, and leave nothing over. All
are forks of this process, so that the libraries are imported once.
"""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import byte_tokenizer, tiny_model
from gguf_files import write_gguf

from analysis.errors import StorageError
from analysis.sources.model import ModelSource, quiet_transformers
from analysis.sources.opening import open_dense
from app import report, wording  # noqa: F401  (so that no fork has to import them)
from app.cli import main
from slicing.studies import run as running  # noqa: F401
from slicing.studies.store import list_runs

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "
MODEL = "--model given/tiny --calibration given/text.txt --evaluation given/other.txt --window-length 32"
BUDGET = f"{MODEL} --calibration-windows 3 --profile-windows 2 --evaluation-windows 2"
TRIALS = f"{BUDGET} --seeds 0,1 --other given/text.txt --rounding 1"
PROFILE = "profile --text given/text.txt --window-length 32 --windows 2"
STUDY = """model = "given/tiny"
calibration = "given/text.txt"
calibration_windows = 3
evaluation = "given/other.txt"
evaluation_windows = 2
window_length = 32
budgets = { blocks = [1] }
recipes = ["slice(constant, rounding=1)", "shortgpt"]
"""
THROWN = 21
"""Runs in the trash at the start: one more than it keeps."""


class Act(NamedTuple):
    """A command that is killed."""

    name: str
    command: str
    """``OLD``, ``SPARE`` and ``THROWN`` stand for the names of runs, the last for one in the trash."""
    first: str = ""
    """A command that is carried out before it."""
    output: str = ""
    """What it writes once and then refuses to write again."""
    done: str = ""
    """What it says where it has nothing left to do."""


SLICE = f"slice --out out/sliced {BUDGET} --rounding 1 --json out/result.json"
COMPARE = f"compare {BUDGET} --rounding 1 --new-tokens 2 --speed-rounds 0 --json out/result.json"
CONTEST = f"study contest {TRIALS} --recipes 'slice(constant); slice(random)' --json out/result.json"
BASES = f"{PROFILE} --model given/tiny --bases"
ACTS = [
    Act("slice", SLICE, output="out/sliced"),
    Act("slice again", SLICE, first=SLICE.replace("out/sliced", "out/older"), output="out/sliced"),
    Act("remove", f"remove --out out/less --blocks 1 --by shortgpt {BUDGET}", output="out/less"),
    Act("compare", COMPARE),
    Act("compare again", COMPARE, first=COMPARE),
    Act("contest", CONTEST),
    Act("contest again", CONTEST, first=CONTEST),
    Act("leaderboard", f"study leaderboard {TRIALS} --sizes .2 --recipes 'slice(constant); shortgpt'"),
    Act("study file", "study given/study.toml --json out/result.json"),
    Act("compress", f"compress shortgpt --budget blocks=1 --out out/short {BUDGET}", output="out/short"),
    Act("sweep", f"study sweep {BUDGET} --rounding 1 --base 0,.1 --target .2 --json out/result.json"),
    Act("profile again", BASES, first=BASES),
    Act("profile of a GGUF file", f"{PROFILE} --model given/tiny.gguf"),
    Act("prepare", "prepare --model given/tiny.gguf"),
    Act("import", "runs import given/run.zip", done="is stored here already"),
    Act("rename", "runs rename OLD Bennet --note Longbourn"),
    Act("delete", "runs delete SPARE", done="There is no run"),
    Act("restore", "runs restore THROWN", done="in the trash"),
    Act("report", "report OLD --out out/report.html", output="out/report.html"),
    Act("export", "runs export OLD --out out/run.zip", output="out/run.zip"),
    Act("show", "runs show OLD --json out/result.json", first="runs show SPARE --json out/result.json"),
]
State = dict[str, str]
"""What lies there, each with a digest of its content."""


class Usual(NamedTuple):
    """How a command goes undisturbed."""

    start: Path
    """A copy of all as the command finds it."""
    before: State
    after: State
    seconds: float
    changes: int
    """On the disk."""


class World:
    """A folder with a model and texts in ``given``, a home with older runs, and places for outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.places = [folder / name for name in ("home", "out", "temp")]
        self.names: dict[str, str] = {}
        self.usual: dict[str, Usual] = {}
        for place in (folder / "given", *self.places):
            place.mkdir()
        self.make_inputs()
        gc.collect()
        gc.freeze()  # else every collection in a fork goes through all libraries
        seeds = {"OLD": 5, "SPARE": 6, "GONE": 7}
        self.do(*(f"{BASES} --seed {seed} --json given/{name}.json" for name, seed in seeds.items()))
        for name in seeds:
            self.names[name] = json.loads((folder / f"given/{name}.json").read_text())["key"]
        name = "runs rename OLD Darcy --note Pemberley"
        self.do(name, "runs export GONE --out given/run.zip", "runs delete GONE")
        (thrown,) = (folder / "home/runs/.trash").iterdir()
        for number in range(1, THROWN):
            key, _, stamp = thrown.name.partition("-")
            each = shutil.copytree(thrown, thrown.with_name(f"{key}-{int(stamp) + number}"))
            (each / "note.json").write_text(json.dumps({"label": str(number)}))
        self.names["THROWN"] = thrown.name
        self.copy(folder, folder / "first")

    def make_inputs(self) -> None:
        given = self.folder / "given"
        model = tiny_model("llama")
        with quiet_transformers():
            model.save_pretrained(given / "tiny")
            byte_tokenizer().save_pretrained(given / "tiny")
        write_gguf(given / "tiny.gguf", model)
        (given / "text.txt").write_text(TEXT * 30)
        (given / "other.txt").write_text(TEXT[::-1] * 30)
        (given / "study.toml").write_text(STUDY)
        open_dense(ModelSource.parse(str(given / "tiny")))  # what is made once is made before the forks

    # Starting and ending

    def fork(self, work: Callable[[], object], at: int = 0, how: signal.Signals = signal.SIGKILL) -> int:
        """Start ``work`` in a process that ``how`` ends before change ``at`` on the disk; its number."""
        ready, told = os.pipe()
        child = os.fork()
        if child:
            os.close(told)
            os.read(ready, 1)
            os.close(ready)
            return child
        code = 1
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.chdir(self.folder)
                os.environ["SLICESCOPE_HOME"] = str(self.folder / "home")
                tempfile.tempdir = str(self.folder / "temp")
                log = self.log.open("w")
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sys.stdout = sys.stderr = log
                changes = count_changes(at, how)
                os.write(told, b".")
                work()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                sys.stdout.flush()
                (self.folder / "changes").write_text(str(len(changes)))
        finally:
            os._exit(code)

    def start(self, *commands: str, at: int = 0, how: signal.Signals = signal.SIGKILL) -> int:
        """Start commands, one after the other."""

        def work() -> None:
            for number, command in enumerate(commands, 1):
                words = [self.names.get(word, word) for word in shlex.split(command)]
                sys.argv = ["slicescope", *words]
                try:
                    main()
                except SystemExit as stop:
                    if stop.code or number == len(commands):
                        raise

        return self.fork(work, at, how)

    def must_end_well(self, child: int) -> None:
        assert ending(child) == 0, self.log.read_text()

    def do(self, *commands: str) -> None:
        """Carry commands out."""
        self.must_end_well(self.start(*commands))

    # Looking

    def copy(self, origin: Path, target: Path) -> None:
        """Copy all that commands change, links between files too."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        places = [origin / place.name for place in self.places]
        subprocess.run(["cp", "-a", *places, target], check=True)

    def reset(self, start: Path) -> None:
        for place in self.places:
            shutil.rmtree(place)
        subprocess.run(["cp", "-a", *start.iterdir(), self.folder], check=True)

    def state(self, folder: Path) -> State:
        """What a person finds in a copy of all: runs, those in the trash, converted models and outputs."""
        with patch.dict(os.environ, SLICESCOPE_HOME=str(folder / "home")):
            _, broken = list_runs()
        assert not broken, broken
        runs = folder / "home/runs"
        found: State = {}
        for place in ("home/runs", "home/cache", "out"):
            found |= {str(path.relative_to(folder)): digest(path) for path in folder.glob(f"{place}/[!.]*")}
        return found | {f"thrown {each}": each for each in map(digest, runs.glob(".trash/[!.]*"))}

    def left(self) -> list[str]:
        """What no command should leave."""
        known = {".trash", ".profiles", ".index.json"}
        hidden = [path for place in self.places[:2] for path in place.rglob(".*") if path.name not in known]
        return [str(path.relative_to(self.folder)) for path in (*hidden, *self.places[2].iterdir())]

    def trials(self) -> dict[str, int]:
        """The stored trials, each with the number of its file, which another one would not have."""
        runs = {path: json.loads(path.read_bytes()) for path in self.folder.glob("home/runs/[!.]*/run.json")}
        return {
            path.parent.name: path.stat().st_ino
            for path, run in runs.items()
            if run["request"]["kind"] == "trial"
        }

    def of(self, act: Act) -> Usual:
        """How it goes undisturbed; measured the first time."""
        if act.name not in self.usual:
            self.reset(self.folder / "first")
            if act.first:
                self.do(act.first)
            start = self.folder / f"start of {act.name}"
            self.copy(self.folder, start)
            before = self.state(self.folder)
            begun = time.monotonic()
            self.do(act.command)
            seconds = time.monotonic() - begun
            after, changes = self.state(self.folder), int((self.folder / "changes").read_text())
            assert self.left() == []
            self.usual[act.name] = Usual(start, before, after, seconds, changes)
        return self.usual[act.name]

    def kill(self, act: Act, chance: random.Random) -> Iterator[str]:
        """Kill it once; a sentence for everything that is not as it should be."""
        usual, how = self.of(act), chance.choice(SIGNALS)
        by_the_clock, moment = chance.random() < 0.5, chance.random()
        ended = 0
        while ended == 0:  # else it came too late
            self.reset(usual.start)
            if by_the_clock:
                child = self.start(act.command)
                time.sleep(moment * usual.seconds)
                os.kill(child, how)
                when = f"after {moment * usual.seconds:.3f} s"
            else:
                at = 1 + int(moment * usual.changes)
                child = self.start(act.command, at=at, how=how)
                when = f"before change {at}"
            ended, moment = ending(child), 0.8 * moment
        where = f"{act.name}, {how.name} {when}: "
        seen = self.folder / "seen"
        self.copy(self.folder, seen)
        now = self.state(seen)
        for fault in faults(usual, now):
            yield where + fault
        trials = self.trials()
        ended = ending(self.start(act.command))
        said = " ".join(self.log.read_text().split())
        over = bool(ended and act.done and act.done in said)
        if over:
            ended = ending(self.start("runs", "runs trash"))
        elif ended == StorageError.exit_code and act.output in now:
            whole = self.folder / act.output
            shutil.rmtree(whole) if whole.is_dir() else whole.unlink()
            ended = ending(self.start(act.command))
        if left := self.left():
            yield f"{where}the next start left {left}"
        if ended:
            yield f"{where}the next start ended with {ended}: {said[-500:]}"
        else:
            found = self.state(self.folder)
            changed = sorted({name for name, _ in found.items() ^ usual.after.items()})
            # Where nothing was left to do, the trash may still hold the one that it would have let go.
            for fault in faults(usual, found) if over else changed:
                yield f"{where}after the next start, otherwise than usual: {fault}"
        if again := sorted(dict(trials.items() - self.trials().items())):
            yield f"{where}the next start made {again} again"


def count_changes(at: int, how: signal.Signals) -> list[str]:
    """A list that grows with every change on the disk; a signal comes before the one with number ``at``."""
    seen: list[str] = []
    changing = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "os.symlink"}

    def listen(event: str, about: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(about[2], int) and about[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in changing:
            seen.append(event)
            if len(seen) == at:
                os.kill(os.getpid(), how)

    sys.addaudithook(listen)
    return seen


def ending(child: int) -> int:
    """Wait for the process; its exit code, or the number of the signal that ended it with a minus."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faults(usual: Usual, now: State) -> Iterator[str]:
    """What is neither as it was nor as the command makes it."""
    for name in sorted({*usual.before, *usual.after, *now}):
        if now.get(name) not in (usual.before.get(name), usual.after.get(name)):
            yield f"{name} is {'half written' if name in now else 'gone'}"
    for name, content in usual.before.items():
        moved = name not in usual.after and content in usual.after.values()
        if moved and content not in now.values():
            yield f"{name} is gone"


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder that are shown."""
    files = [path]
    if path.is_dir():
        found = (each for each in sorted(path.rglob("*")) if each.is_file())
        files = [each for each in found if not any(part[0] == "." for part in each.relative_to(path).parts)]
    named = [(str(each.relative_to(path)), content(each.name, each.read_bytes())) for each in files]
    return hashlib.sha256(repr(named).encode()).hexdigest()[:12]


TIMES = ("created", "seconds", "tokens_per_second", "peak_memory")


def content(name: str, raw: bytes) -> Any:
    """What is in a file, but for what the clock says."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return [(each, content(each, archive.read(each))) for each in archive.namelist()]
    if not name.endswith(".json") or name.startswith("tokenizer"):
        return raw
    plain = json.loads(raw, object_pairs_hook=timeless)
    if isinstance(plain.get("result", {}).get("profile"), str):
        del plain["result"]["profile"]  # the name of the profile's file, with its seconds
    return plain


def timeless(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if not name.endswith(TIMES)}


def kills(folder: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Kill so many commands; a sentence for everything that was lost, as it is found."""
    chance, world = random.Random(seed), World(folder)
    acts = itertools.cycle(chance.sample(ACTS, len(ACTS)))
    for number, act in enumerate(itertools.islice(acts, count), 1):
        yield from world.kill(act, chance)
        if number % 20 == 0:
            print(f"{number} of {count}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    wanted, lost = int((sys.argv[1:] or ["200"])[0]), 0
    with tempfile.TemporaryDirectory() as place:
        for sentence in kills(Path(place), wanted):
            print(sentence, flush=True)  # noqa: T201
            lost += 1
    print(f"{wanted} kills, {lost} lost")  # noqa: T201
    sys.exit(lost > 0)

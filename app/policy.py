"""What the people at the pages may ask of the server: which models, texts, paths and budgets.

The command line is never limited. Knows nothing about streamlit, sessions or how work is done: it looks at
what is asked for, and refuses it in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from analysis.errors import SlicescopeError, StorageError
from analysis.sources.demo_text import DEMO_SPLITS
from analysis.sources.model import ModelSource, must_fetch
from analysis.sources.text import TextSource
from analysis.storage import cache_folder, require_space, runs_folder, texts_folder
from analysis.values import Value
from slicing.plans import Plan
from slicing.studies.grammar import write_line
from slicing.studies.recipe import Recipe
from slicing.studies.results import Request, Run
from slicing.studies.study import sliced

DEMO_TASKS = ("load", "profile", "trial", "study", "preview", "play")
"""What strangers may start. Not ``compress``, which keeps a model's worth of disk for every recipe, and not
``search``, which asks for the loss hundreds of times."""
DEMO_MINUTES = 15
"""How long a stranger's job may run where nothing else is said. A study that is asked for again goes on."""
FREE = frozenset(
    {
        *("seed", "seeds", "draw", "rounding", "blocks_per_basis", "plain", "basis", "basis_draw"),
        *("kind", "view", "measure", "allocation", "score", "embedding", "repair", "run", "prompt", "search"),
        "calibration_precision",
    }
)
"""Numbers and words in a request that cost nothing and name no path. Others are refused in demo mode."""
LONG = frozenset({"units_measured"})
"""What takes a pass for every part of a model, and is refused in demo mode."""
LONGEST_WORD = 2000
"""Characters of a word, or items of a list, in demo mode."""
SPARE_DISK = 2 * 10**9
"""Bytes that demo mode leaves free on the disk that the runs are on."""


_Told = TypeVar("_Told", bound=Run | Request)


class Refused(SlicescopeError):
    """What was asked for goes beyond what this server allows."""


class Policy(Value):
    """What is allowed; by default everything but paths far from home. ``None`` is no limit."""

    demo_mode: bool = False
    """Whether strangers use it: what is not known to be harmless is refused, and people's jobs, runs and
    paths are kept from each other."""
    models: tuple[ModelSource, ...] | None = None
    texts: tuple[TextSource, ...] | None = None
    tasks: tuple[str, ...] | None = None
    """Kinds of tasks."""
    roots: tuple[Path, ...] | None = None
    """Folders that paths may reach, beside slicescope's own; ``None`` for the home and the working folder."""
    windows: int | None = None
    length: int | None = None
    """Tokens in a window."""
    tokens: int | None = None
    """Tokens to generate."""
    rounds: int | None = None
    """Rounds of timing."""
    cells: int | None = None
    """Of a study: recipes times budgets times seeds times repetitions."""
    jitter: int | None = None
    """Repetitions with noise."""
    waiting: int | None = None
    """Jobs of one person that wait or run."""
    neighbours: int | None = None
    """Jobs of all people at one address that wait or run."""
    paced: bool = False
    """Whether it is limited how often somebody may come, click and ask."""
    minutes: int | None = None
    """That one job may run."""
    may_import: bool = True
    may_delete: bool = True
    """Deleting, renaming and annotating stored runs, and closing the model that all share."""
    may_download_models: bool = True

    @classmethod
    def demo(cls, models: tuple[ModelSource, ...] = (), minutes: int | None = None) -> Self:
        """For strangers: the named models, or the demo's; its texts; small budgets; nothing to be spoilt."""
        return cls(
            demo_mode=True,
            models=models or (ModelSource(kind="demo"),),
            texts=tuple(TextSource(kind="demo", split=split) for split in DEMO_SPLITS),
            tasks=DEMO_TASKS,
            roots=(),
            windows=16,
            length=512,
            tokens=60,
            rounds=5,
            cells=12,
            jitter=3,
            waiting=2,
            neighbours=6,
            paced=True,
            minutes=minutes or DEMO_MINUTES,
            may_import=False,
            may_delete=False,
            may_download_models=False,
        )

    def check(self, asked: object) -> None:
        """Refuse (``Refused``) a task, a request or a source that goes beyond what is allowed."""
        kind = getattr(asked, "kind", type(asked).__name__)
        if self.tasks is not None and not isinstance(asked, ModelSource) and kind not in self.tasks:
            raise Refused(f"This server does not do '{kind}' for visitors: run slicescope yourself for that.")
        self._check_part(kind, asked)
        if self.demo_mode:
            _require_spare_disk()

    def check_queue(self, waiting: int, neighbours: int = 0) -> None:
        """Refuse another job of someone who, or whose address, has so many jobs that wait or run."""
        if self.waiting is not None and waiting >= self.waiting:
            raise Refused(
                f"You have {waiting} jobs here, and no more are allowed: wait for one, or cancel one."
            )
        if self.neighbours is not None and neighbours >= self.neighbours:
            raise Refused(
                f"{neighbours} jobs from your network are here, and no more are allowed: wait for one."
            )

    def check_path(self, text: str) -> None:
        """Refuse a path that does not lie, all links followed, in one of the roots."""
        usual = self.roots is None
        roots = (Path.home(), Path.cwd()) if self.roots is None else self.roots
        allowed = [root.resolve() for root in (*roots, runs_folder(), cache_folder(), texts_folder())]
        try:
            # Some readers expand '~' and some do not.
            reached = {Path(text).resolve(), Path(text).expanduser().resolve()}
        except (OSError, RuntimeError, ValueError):  # a loop of links, a home of nobody, a zero byte
            reached = set()
        if reached and all(any(path.is_relative_to(root) for root in allowed) for path in reached):
            return
        where = "your home and the working folder" if usual else "the folders that it was given"
        raise Refused(
            f"'{text}' lies outside what this server may read ({where}): start it with --root FOLDER to "
            "allow another one."
        )

    def may_ask(self, recipe: Recipe) -> bool:
        """Tell whether people may ask for a recipe: strangers only for what is quick."""
        return not self.demo_mode or recipe.quick

    def cap(self, name: str) -> int | None:
        """The largest value of a number in a request, by the last part of its name."""
        measure = re.split("[-_]", name)[-1]
        capped = ("windows", "length", "tokens", "rounds", "jitter")
        return getattr(self, measure) if measure in capped else None

    def tell(self, text: str) -> str:
        """A sentence without the server's folders where strangers read it: each path's last part is left."""
        return _PATH.sub(lambda path: path["quoted"] or path["bare"], text) if self.demo_mode else text

    def blind(self, part: _Told) -> _Told:
        """A run or a request as strangers may read it: of paths to models and texts the last part is left."""
        if not self.demo_mode:
            return part
        if isinstance(part, Run):
            return part.model_copy(update={"request": _without_folders(part.request)})
        return _without_folders(part)

    def _check_part(self, name: str, part: Any) -> None:
        if isinstance(part, ModelSource):
            self._check_model(part)
        elif isinstance(part, TextSource):
            self._check_text(part)
        elif isinstance(part, BaseModel) or is_dataclass(part):
            self._check_quick(part)
            within = dict(_fields(part))
            self._check_cells(within)
            for each, value in within.items():
                self._check_part(each, value)
        elif isinstance(part, dict):
            for each, value in part.items():
                self._check_part(str(each), value)
        elif isinstance(part, tuple | list):
            self._check_long(name, part)
            for value in part:
                self._check_part(name, value)
        elif isinstance(part, Path):
            self.check_path(str(part))
        elif part is not None and not isinstance(part, bool | float):
            self._check_setting(name, part)
        elif self.demo_mode and part and name in LONG:
            raise Refused(
                f"'{name.replace('_', ' ')}' takes this server too long for visitors: leave it out, or run "
                "slicescope yourself for that."
            )

    def _check_quick(self, part: Any) -> None:
        steps = sliced(part).steps if isinstance(part, Plan) else getattr(part, "steps", ())
        if self.demo_mode and not all(each.quick for each in steps):
            raise Refused(
                f"'{write_line(steps)}' takes this server too long for visitors: choose another, or run "
                "slicescope yourself for that."
            )

    def _check_setting(self, name: str, value: Any) -> None:
        cap = self.cap(name)
        if isinstance(value, int) and cap is not None:
            if value > cap:
                what = "repetitions (jitter)" if name == "jitter" else name.replace("_", " ")
                raise Refused(f"This server allows {cap} {what} at most, but got {value}: ask for fewer.")
        elif self.demo_mode:
            if name not in FREE or not isinstance(value, int | str):
                raise Refused(f"This server does not let visitors set '{name}': leave it as it is.")
            if isinstance(value, str):
                self._check_long(name, value)

    def _check_long(self, name: str, value: Any) -> None:
        if self.demo_mode and len(value) > LONGEST_WORD:
            raise Refused(
                f"The {name} is {len(value):,} long, but {LONGEST_WORD:,} is the most here: shorten it."
            )

    def _check_cells(self, within: dict[str, Any]) -> None:
        # An empty list asks for nothing, and so multiplies nothing.
        several = {
            name: len(value) for name, value in within.items() if isinstance(value, tuple | list) and value
        }
        if repeated := within.get("jitter", 0):
            several["repetitions"] = 1 + repeated
        cells = prod(several.values())
        if self.cells is not None and cells > self.cells:
            raise Refused(
                f"This server allows {self.cells} cells at most, but got {cells} "
                f"({' times '.join(several)}): ask for fewer."
            )

    def _check_model(self, source: ModelSource) -> None:
        if self.models is not None and source not in self.models:
            offered = ", ".join(model.label for model in self.models)
            raise Refused(f"This server does not offer the model '{source.label}': choose from {offered}.")
        if self.models is None and source.kind in ("folder", "gguf"):
            self.check_path(source.location)
            for path in _links(Path(source.location)):
                self.check_path(str(path))
        if source.kind == "hub" and not self.may_download_models and must_fetch(source):
            raise Refused(
                f"The model '{source.label}' is not on this server, which fetches none for visitors: whoever "
                "runs it can fetch it with 'slicescope prepare --model'."
            )

    def _check_text(self, source: TextSource) -> None:
        if self.texts is not None:
            if source not in self.texts:
                offered = ", ".join(text.label for text in self.texts)
                raise Refused(f"This server does not offer the text '{source.label}': choose from {offered}.")
        elif source.kind == "file":
            self.check_path(source.location)


_enforced: list[Policy] = []


def enforce(policy: Policy) -> None:
    """Make this the policy of the server in this process."""
    _enforced[:] = [policy]


def enforced() -> Policy:
    """The policy of the server in this process."""
    return _enforced[0] if _enforced else Policy()


_PATH = re.compile(
    r"""(?<=['"])(?:~|[A-Za-z]:)?[/\\](?:[^'"\n]*[/\\])?(?P<quoted>[^/\\'"\n]+)(?=['"])"""
    r"""|(?<![\w/:.'"])(?:~|[A-Za-z]:)?[/\\](?:[^\s'"/\\]+[/\\])*(?P<bare>[^\s'"/\\]+)"""
)
"""An absolute path in a sentence, and its last part."""


def _without_folders(part: Any) -> Any:
    if isinstance(part, ModelSource | TextSource) and part.kind in ("folder", "gguf", "file"):
        return part.model_copy(update={"location": Path(part.location).name})
    if isinstance(part, Path):
        return Path(part.name)
    if isinstance(part, tuple):
        return tuple(map(_without_folders, part))
    if isinstance(part, BaseModel):
        return part.model_copy(update={name: _without_folders(value) for name, value in _fields(part)})
    return part


def _fields(part: Any) -> Iterator[tuple[str, Any]]:
    names = (field.name for field in fields(part)) if is_dataclass(part) else type(part).model_fields
    return ((name, getattr(part, name)) for name in names)


def _links(folder: Path) -> Iterator[Path]:
    """The links in a folder and in those inside it: what a model's files are may lie anywhere."""
    inside = list(_entries(folder))
    yield from (path for path in inside if path.is_symlink())
    for path in inside:
        if not path.is_symlink():
            yield from (each for each in _entries(path) if each.is_symlink())


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:  # a file, or nothing that could be read later
        return


def _require_spare_disk() -> None:
    try:
        require_space(runs_folder(), SPARE_DISK)
    except StorageError:
        raise Refused(
            "The disk of this server is nearly full, so nothing new can be stored: look at what there is."
        ) from None

"""Fetching a model from the Hub: what opening it takes and no more, with every byte told.

A process of its own fetches, since a read that waits for the network can be ended in no other way: whoever
asked can stop it at any moment. The next fetch goes on from what has come by then. Knows
nothing about transformers or torch, which would take seconds to import there.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from analysis.child import start_child
from analysis.errors import ModelError, SlicescopeError, StorageError
from analysis.sources.hub import FETCHING, fetch_error, hub_answers
from analysis.storage import require_space, storage_errors
from analysis.values import Progress, no_progress

LOOK = 0.2
"""Seconds between two looks at how far it is; nobody waits longer than this for a stop."""
AT_ONCE = 4
"""Files that come at the same time."""
CHUNK = 2**18
"""Bytes that are written at once. What has come of a chunk is lost when the process is stopped."""
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""How the names of configurations and of files for tokenizers end."""
ADAPTER = "adapter_config.json"
"""With this one transformers would look for weights elsewhere."""
TOKENIZER = re.compile(r"(tokenizer|vocab|merges|spiece|sentencepiece).*|.*\.tiktoken")
"""The names of files that tokenizers are made of."""


def fetched(repository: str, revision: str | None = None) -> Path | None:
    """The folder of a model whose files are all on this machine, or ``None``; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision or "main")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = weight_names(folder, repository) if not (folder / WHOLE).is_file() else [WHOLE]
    except ModelError:
        return None
    whole = bool(names) and all((folder / name).is_file() for name in names)
    return folder if whole and any(TOKENIZER.fullmatch(file.name) for file in folder.iterdir()) else None


def fetch(repository: str, revision: str | None = None, progress: Progress = no_progress) -> Path:
    """The folder of a model, after fetching what of it is not on this machine.

    ``progress`` hears of bytes at least five times a second, and stops it by raising. Raises ``ModelError``
    when there is no such model, or no way to it, ``StorageError`` when the disk has no room for it.
    """
    if folder := fetched(repository, revision):
        return folder
    progress(FETCHING, 0, 1)
    with _fetching(repository, revision) as answers:
        far = 0, 1
        while True:
            if answers.poll(LOOK):
                try:
                    answer = answers.recv()
                except (EOFError, OSError):
                    raise ModelError(
                        f"What fetched '{repository}' ended unexpectedly: try again, and it goes on."
                    ) from None
                if isinstance(answer, SlicescopeError):
                    raise answer
                if isinstance(answer, Path):
                    return answer
                far = answer
            progress(FETCHING, *far)


@contextmanager
def _fetching(repository: str, revision: str | None) -> Iterator[Connection]:
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}
    answers, process = start_child("analysis.fetch", "fetch_and_answer", **quiet)
    try:
        answers.send((repository, revision))
        yield answers
    finally:
        process.kill()
        process.wait()
        answers.close()


def fetch_and_answer(line: int) -> None:
    """Fetch as the process of its own, given the number of its end of the connection."""
    connection = Connection(line)
    repository, revision = connection.recv()

    def end_with_the_asker() -> None:
        try:
            connection.recv()
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=end_with_the_asker, daemon=True).start()
    try:
        answer: object = _Fetch(repository, revision, connection).run()
    except SlicescopeError as error:
        answer = error
    except Exception as error:  # the Hub's client, the transport and the disk raise classes of their own
        answer = _told(repository, revision, error)
    with suppress(OSError):  # nobody asks any more
        connection.send(answer)
    os._exit(0)  # threads that still wait for the network are not waited for


def _told(repository: str, revision: str | None, error: Exception) -> SlicescopeError:
    """Say in one sentence what went wrong."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        try:
            with storage_errors(_cache()):
                raise error
        except StorageError as told:
            return told
    return fetch_error(repository, revision, error)


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class _Weights(NamedTuple):
    """One file of weights: where the Hub has it, and where the cache keeps it."""

    name: str
    url: str
    bytes: int
    blob: Path

    @property
    def here(self) -> int:
        """Count the bytes of it that have come."""
        if self.blob.exists():
            return self.bytes
        return max((part.stat().st_size for part in _parts(self.blob)), default=0)


class _Fetch:
    """One model on its way here."""

    def __init__(self, repository: str, revision: str | None, connection: Connection) -> None:
        self.repository, self.revision, self.connection = repository, revision or "main", connection

    def run(self) -> Path:
        from huggingface_hub import constants, hf_hub_download

        constants.DOWNLOAD_CHUNK_SIZE = CHUNK
        if not constants.is_offline_mode() and not hub_answers():
            raise fetch_error(self.repository, self.revision, ConnectionError("the Hub does not answer"))
        # By its name, so that the cache remembers which commit that is; everything else is of that commit.
        config = Path(hf_hub_download(self.repository, "config.json", revision=self.revision))
        folder = config.parent
        with ThreadPoolExecutor(AT_ONCE) as pool:
            names = self._names(folder.name)
            list(pool.map(lambda name: self._whole(name, folder.name), filter(_is_small, names)))
            wanted = [WHOLE] if WHOLE in names else weight_names(folder, self.repository)
            if absent := [name for name in wanted if name not in names]:
                raise ModelError(
                    f"The model '{self.repository}' lacks its weights '{absent[0]}' on the Hub: choose "
                    "another one, or another revision."
                )
            weights = list(pool.map(lambda name: self._look_up(name, folder), wanted))
            total = sum(each.bytes for each in weights)
            missing = total - sum(each.here for each in weights)
            require_space(_cache(), missing, f"Fetching '{self.repository}' into ", "HF_HOME")
            running = [pool.submit(self._weights, each, folder.name) for each in weights]
            self._tell(running, weights, total)
        return folder

    def _tell(self, running: list[Future[None]], weights: list[_Weights], total: int) -> None:
        """Say how far it is until all have come, or one has failed."""
        while running:
            done, waiting = wait(running, LOOK)
            running = list(waiting)
            self.connection.send((sum(each.here for each in weights), total))
            for each in done:
                if error := each.exception():
                    for other in running:
                        other.cancel()
                    raise error

    def _names(self, commit: str) -> set[str]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(self.repository, revision=commit)
        return {file.rfilename for file in info.siblings or ()}

    def _whole(self, name: str, commit: str) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(self.repository, name, revision=commit)

    def _look_up(self, name: str, folder: Path) -> _Weights:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.repository, name, revision=folder.name)
        found = get_hf_file_metadata(url, retry_on_errors=True)
        blob = folder.parents[1] / "blobs" / (found.etag or name)
        return _Weights(name, url, found.size or 0, blob)

    def _weights(self, each: _Weights, commit: str) -> None:
        """Fetch a file to where the Hub's client looks for it, going on with what has come before.

        The client itself begins every file anew; it then only has to link what is there.
        """
        from huggingface_hub import constants
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        if each.bytes <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            lock = _cache() / ".locks" / each.blob.parents[1].name / f"{each.blob.name}.lock"
            for path in (lock, each.blob):
                path.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                part = each.blob.with_name(f"{each.blob.name}.incomplete")
                if part.exists() and part.stat().st_size > each.bytes:  # not of this file
                    part.unlink()
                if not each.blob.exists():
                    with part.open("ab", buffering=0) as file:
                        http_get(
                            each.url,
                            file,
                            resume_size=file.tell(),
                            headers=build_hf_headers(),
                            expected_size=each.bytes or None,
                        )
                    part.replace(each.blob)
        self._whole(each.name, commit)


def weight_names(folder: Path, label: str) -> list[str]:
    """The files of weights that the index in a folder names (``ModelError`` when it names others)."""
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in named.values()})
        if not names:
            raise ValueError("no weights")
    except FileNotFoundError:
        raise ModelError(
            f"The model '{label}' has no safetensors weights on the Hub, and pickled ones (.bin, .pt) "
            "are never opened: choose a revision or another model that has them."
        ) from None
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise ModelError(
            f"The index of the weights of '{label}' cannot be read: choose another revision or "
            "model, or save this one again."
        ) from None
    if strange := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ModelError(
            f"The index of the weights of '{label}' names '{strange[0]}', but only safetensors files "
            "beside it are opened: choose another revision or model, or save this one again."
        )
    return names


def _is_small(name: str) -> bool:
    return "/" not in name and name.endswith(SMALL) and name != ADAPTER


def _parts(blob: Path) -> Iterator[Path]:
    return blob.parent.glob(f"{blob.name}*.incomplete") if blob.parent.is_dir() else iter(())


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()

"""Models on the Hub, which here is a folder served on the loopback interface that notes what it is asked.

``folder/owner/name/revision/`` is a revision of a model. A file ``.gated`` beside the revisions closes it to
all who do not show its content as their token, ``.private`` hides it from them, and ``.card`` is what the
Hub's programming interface says of its model card, in JSON. Weights come from another address, as there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import analysis.sources.hub


def commit_of(revision: Path) -> str:
    """A stand-in for the commit hash: forty hex digits, fixed by the place."""
    return sha1(str(revision).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Repositories)
        self.folder = folder
        self.asked: list[str] = []
        self.sent = 0
        """Bytes of weights."""
        self.tokens_elsewhere = 0
        """How many tokens reached the address of the weights, which none is meant for."""
        self.rate: float | None = None
        """Bytes of weights in a second, or ``None`` for all at once."""
        self.stalled = threading.Event()
        """While it is set, no byte of weights is sent."""
        self.claimed: int | None = None
        """The size that weights are said to have, where it is not theirs."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked has gone, as some tests want it
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Repositories(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        place, _, query = self.path.partition("?")
        parts = place.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        if parts[0] == "cdn":
            self.server.tokens_elsewhere += "Authorization" in self.headers
            self.send(self.server.folder.joinpath(*parts[1:]))
            return
        parts = parts[2:] if is_api else parts
        owner, name, verb, revision = [*parts[:4], "", "", "", ""][:4]
        path = parts[4:]
        repository = self.server.folder / owner / name
        known = {each: each for each in repository.glob("[!.]*")}
        known |= {repository / commit_of(each): each for each in known}
        folder = known.get(repository / (revision or "main"))
        if not owner:
            self.reply(200)
        elif not known or self.is_closed(repository / ".private"):
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif folder is None:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif is_api and verb in ("", "revision"):
            facts = self.facts(repository, folder, "blobs=true" in query.lower())
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())
        elif self.is_closed(repository / ".gated"):
            status = 403 if self.headers.get("Authorization") else 401
            self.reply(status, {"X-Error-Code": "GatedRepo"})
        elif verb != "resolve" or not folder.joinpath(*path).is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_of(folder)})
        elif path[-1].endswith(".safetensors"):
            file = folder.joinpath(*path)
            elsewhere = f"http://localhost:{self.server.server_port}/cdn/"  # to a client another host
            place = {"Location": elsewhere + file.relative_to(self.server.folder).as_posix()}
            linked = {"X-Linked-ETag": f'"{digest(file)}"', "X-Linked-Size": str(self.size(file))}
            self.reply(302, {**place, **linked, "X-Repo-Commit": commit_of(folder)})
        else:
            content = folder.joinpath(*path).read_bytes()
            tag = f'"{sha1(content).hexdigest()}"'
            self.reply(200, {"ETag": tag, "X-Repo-Commit": commit_of(folder)}, content)

    def is_closed(self, to: Path) -> bool:
        return to.exists() and self.headers.get("Authorization") != f"Bearer {to.read_text()}"

    def facts(self, repository: Path, folder: Path, sizes: bool) -> dict[str, object]:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        card = repository / ".card"
        return {
            "id": f"{repository.parent.name}/{repository.name}",
            "sha": commit_of(folder),
            "siblings": [
                {"rfilename": file.relative_to(folder).as_posix()}
                | ({"size": self.size(file)} if sizes else {})
                for file in files
            ],
            **({"cardData": json.loads(card.read_text())} if card.exists() else {}),
        }

    def size(self, file: Path) -> int:
        claimed = self.server.claimed if file.suffix == ".safetensors" else None
        return file.stat().st_size if claimed is None else claimed

    def send(self, file: Path) -> None:
        """Send weights, as slowly as they are to come."""
        content = file.read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.reply(206 if begin else 200, {"ETag": f'"{digest(file)}"', **part}, b"", len(content) - begin)
        if self.command == "HEAD":
            return
        step = 2**16
        try:
            for at in range(begin, len(content), step):
                while self.server.stalled.is_set():
                    time.sleep(0.01)
                chunk = content[at : at + step]
                self.wfile.write(chunk)
                self.server.sent += len(chunk)
                if self.server.rate:
                    time.sleep(len(chunk) / self.server.rate)
        except OSError:
            pass

    def reply(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        size: int | None = None,
    ) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.stalled.clear()
        hub.shutdown()


def ask(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process, and those that it starts, ask this Hub and keep what they get in ``home``."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    for name, value in at(hub, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    files = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(analysis.sources.hub, "_last", {})


def at(hub: Hub, home: Path) -> dict[str, str]:
    """The environment of a process that asks this Hub and keeps what it gets in ``home``."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**usual, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(home)}

"""What is uploaded takes no more memory than it may."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app import uploads as module
from app.uploads import MEGA, Uploads


class Store:
    """An app that keeps what it is sent, as streamlit does."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.slow: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.slow:
            await self.slow.wait()
        session, file = scope["path"].split("/")[-2:]
        if scope["method"] == "DELETE":
            del self.files[session][file]
        elif scope["method"] == "PUT":
            size = int(dict(scope["headers"])[b"content-length"])
            self.files.setdefault(session, {})[file] = SimpleNamespace(data=range(size))
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body", "body": b""})


async def put(door: Any, path: str, size: int | None, method: str = "PUT") -> tuple[int, str]:
    """The status and what is said."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if size is None else [(b"content-length", str(size).encode())]
    scope = {"type": "http", "method": method, "headers": headers}
    await door({**scope, "path": f"/base/_stcore/upload_file/{path}"}, None, send)
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(module.st, "get_option", {"server.maxUploadSize": 20}.__getitem__)
    return Store()


def test_none_are_taken_where_the_policy_says_so(store: Store) -> None:
    door = Uploads(store, taken=False)
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert asyncio.run(put(door, "me/1", 1, method)) == (403, "This server takes no uploads.")


def test_a_file_has_a_largest_size(store: Store) -> None:
    door = Uploads(store, held=lambda: store.files)
    assert asyncio.run(put(door, "me/1", 20 * MEGA + 500)) == (204, "")
    status, said = asyncio.run(put(door, "me/2", 30 * MEGA))
    assert (status, said) == (413, "The file has 30 MB, but 20 MB is the most: send a smaller one.")
    assert asyncio.run(put(door, "me/2", None))[0] == 411
    assert list(store.files["me"]) == ["1"]


def test_a_session_has_few_files(store: Store) -> None:
    door = Uploads(store, held=lambda: store.files)
    answers = [asyncio.run(put(door, f"me/{number}", MEGA)) for number in range(3)]
    assert [status for status, _ in answers] == [204, 204, 413]
    assert "2 uploaded files already" in answers[2][1]
    assert asyncio.run(put(door, "you/1", MEGA))[0] == 204
    assert asyncio.run(put(door, "me/0", None, "DELETE"))[0] == 204
    assert asyncio.run(put(door, "me/3", MEGA))[0] == 204


def test_all_sessions_together_have_a_bound(store: Store) -> None:
    door = Uploads(store, held=lambda: store.files)
    statuses = [asyncio.run(put(door, f"{number}/1", 20 * MEGA))[0] for number in range(11)]
    assert statuses == [204] * 10 + [413]


def test_what_is_on_its_way_counts(store: Store) -> None:
    async def scene() -> list[int]:
        store.slow = asyncio.Event()
        door = Uploads(store, held=lambda: store.files)
        waiting = [asyncio.create_task(put(door, f"{number}/1", 20 * MEGA)) for number in range(10)]
        mine = [asyncio.create_task(put(door, f"me/{number}", 1)) for number in range(3)]
        await asyncio.sleep(0)
        refused = [
            (await put(door, "11/1", MEGA))[0],
            *[task.result()[0] for task in mine if task.done()],
        ]
        store.slow.set()
        assert {status for status, _ in await asyncio.gather(*waiting)} == {204}
        assert not door._coming and not door._files
        return refused

    assert asyncio.run(scene()) == [413, 413, 413, 413]

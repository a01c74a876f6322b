"""How often somebody may come, click and ask: counted, and at a real server."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from serving import Server, serving
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from analysis.errors import SlicescopeError
from app import pace as module
from app.pace import Allowance, Allowances, Asking, Connections, Pace, neighbourhood


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_some_at_once_and_then_so_many_a_second() -> None:
    clock = Clock()
    allowance = Allowance(Pace(2, 4), clock)
    assert [allowance.take() for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]
    clock.now = 0.5
    assert allowance.wait == 0.25
    clock.now = 100.0
    assert allowance.whole
    assert [allowance.take() for _ in range(3)] == [0.0, 0.0, 0.25]


def test_only_names_that_used_some_of_it_lately_are_remembered() -> None:
    clock = Clock()
    named = Allowances(Pace(1, 1), clock)
    for name in ("a", "b"):
        named.of(name).take()
    clock.now = 0.5
    assert named.of("a").wait == 0.5
    clock.now = 10.0
    named.of("c")
    assert set(named._named) == {"c"}


def test_asking_is_counted_for_each_person_and_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASKING", Pace(2, 0.1))
    monkeypatch.setattr(module, "ASKING_OF_ADDRESS", Pace(3, 0.1))
    clock = Clock()
    asking = Asking(clock)
    for _ in range(2):
        asking.ask("me", "1.2.3.4")
    with pytest.raises(SlicescopeError, match="ask again in 10 seconds"):
        asking.ask("me", "1.2.3.4")
    asking.ask("you", "1.2.3.4")
    with pytest.raises(SlicescopeError, match="Too many jobs"):
        asking.ask("another", "1.2.3.4")
    asking.ask("another", "5.6.7.8")
    clock.now = 10.0
    asking.ask("me", "1.2.3.4")


@pytest.mark.parametrize(
    ("address", "known_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        (None, "this machine"),
    ],
)
def test_a_customer_is_one_address(address: str | None, known_as: str) -> None:
    assert neighbourhood(address) == known_as


# One connection, without a server


def message(kind: str, **rerun: Any) -> dict[str, Any]:
    told = BackMsg()
    if kind == "rerun_script":
        told.rerun_script.query_string = ""
        for name, value in rerun.items():
            setattr(told.rerun_script, name, value)
    else:
        setattr(told, kind, True)
    return {"type": "websocket.receive", "bytes": told.SerializeToString()}


def passed(messages: list[Any], paced: bool = True) -> tuple[list[str], list[Any]]:
    """What the app hears of some messages, and what their sender is told."""
    inbox, heard, sent = [*messages, {"type": "websocket.disconnect", "code": 1000}], [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (told := await receive())["type"] != "websocket.disconnect":
            back = BackMsg.FromString(told["bytes"])
            heard.append(back.WhichOneof("type"))
            await send({"type": "websocket.send", "bytes": b""})

    async def receive() -> Any:
        return inbox.pop(0)

    async def send(told: Any) -> None:
        sent.append(told["type"])

    scope = {"type": "websocket", "client": ("192.0.2.7", 1), "path": "/_stcore/stream"}
    asyncio.run(Connections(app, paced)(scope, receive, send))
    return heard, sent


@pytest.mark.parametrize("paced", [True, False])
def test_what_no_page_sends_is_passed_over(paced: bool) -> None:
    kinds = ["clear_cache", "load_git_info", "set_run_on_save", "stop_script", "app_heartbeat"]
    assert passed([message(kind) for kind in kinds], paced)[0] == ["stop_script", "app_heartbeat"]


def test_too_much_waits_and_timers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLICKS", Pace(2, 50))
    click, timer = message("rerun_script"), message("rerun_script", is_auto_rerun=True)
    began = time.monotonic()
    heard, _ = passed([timer, click, timer, click, timer, click])
    assert len(heard) == 4  # the first timer and every click
    assert time.monotonic() - began >= 2 / 50
    assert len(passed([timer] * 9, paced=False)[0]) == 9


def test_who_does_not_stop_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLICKS", Pace(2, 50))
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    heard, sent = passed([message("rerun_script")] * 100)
    assert 2 < len(heard) < 50
    assert sent[-1] == "websocket.close" and sent.count("websocket.close") == 1


def test_one_address_has_so_many_pages_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 2)
    told: list[Any] = []

    async def scene() -> None:
        over = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"who": scope["client"][0]})
            await over.wait()

        async def send(what: Any) -> None:
            told.append(what)

        door = Connections(app, paced=True)
        visits = [
            asyncio.create_task(door({"type": "websocket", "client": (who, 1)}, None, send))
            for who in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")
        ]
        while len(told) < 4:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*visits)
        await door({"type": "websocket", "client": ("192.0.2.1", 1)}, None, send)
        assert not door._open

    asyncio.run(asyncio.wait_for(scene(), 10))
    addresses = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"]
    assert told == [module.CLOSE, *({"who": each} for each in addresses)]


# At a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home"), "--demo-mode") as server:
        yield server


def open_page(server: Server) -> Any:
    where = server.address.replace("http", "ws")
    return websockets.connect(
        f"{where}/_stcore/stream", subprotocols=["streamlit"], max_size=None, ping_interval=None
    )


async def draw(line: Any) -> None:
    """Ask for a page, and wait until it is drawn."""
    await line.send(message("rerun_script", page_name="runs")["bytes"])
    while True:
        told = ForwardMsg.FromString(await line.recv())
        if told.WhichOneof("type") == "script_finished":
            return


def answer_time(server: Server) -> float:
    """Seconds that the server takes to say that it is well."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    connection.request("GET", "/_stcore/health")
    assert connection.getresponse().read() == b"ok"
    connection.close()
    return time.perf_counter() - began


@pytest.mark.timeout(300)
def test_300_messages_of_one_visitor_hold_up_nobody(server: Server) -> None:
    async def scene() -> tuple[int, list[float]]:
        times: list[float] = []
        async with open_page(server) as line:
            await draw(line)
            for _ in range(300):
                await line.send(message("rerun_script", page_name="runs")["bytes"])
            listening = asyncio.create_task(listen(line))
            while not listening.done():
                times.append(await asyncio.to_thread(answer_time, server))
                await asyncio.sleep(0.05)
            return listening.result(), times

    async def listen(line: Any) -> int:
        """How the connection is ended."""
        try:
            while True:
                await line.recv()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code

    code, times = asyncio.run(asyncio.wait_for(scene(), 120))
    assert max(times) < 1.0
    assert code == 1008


@pytest.mark.timeout(300)
def test_no_visitor_empties_the_caches_of_everybody(server: Server) -> None:
    async def scene() -> None:
        async with open_page(server) as line:
            await draw(line)
            await line.send(message("clear_cache")["bytes"])
            await draw(line)

    before = [engine.pid for engine in server.engines()]
    asyncio.run(asyncio.wait_for(scene(), 120))
    assert [engine.pid for engine in server.engines()] == before

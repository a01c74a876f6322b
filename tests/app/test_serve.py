"""The server binds this machine only, has its settings with it, and sends nothing anywhere."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.errors import SlicescopeError, StorageError
from app import policy as policies
from app import serve as module
from app import state
from app.cli import main
from app.pace import Connections
from app.policy import Policy, enforced
from app.security import Security, headers, inline_scripts
from app.serve import serve
from app.uploads import Uploads


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The settings of every start, instead of a server."""
    settings: list[dict[str, Any]] = []

    class App:
        def __init__(self, script: Path, lifespan: Any, middleware: Any) -> None:
            assert script.is_file()
            assert [each.cls for each in middleware] == [Security, Uploads, Connections]
            self.paced = middleware[2].kwargs["paced"]

        def run(self, config: dict[str, Any]) -> None:
            settings.append({**config, "paced": self.paced})

    monkeypatch.setattr(module.st, "App", App)
    monkeypatch.setattr(module, "_require_bindable", lambda address, port: None)
    monkeypatch.setattr(policies, "_enforced", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return settings


def test_the_defaults_are_private(started: list[dict[str, Any]]) -> None:
    serve(open_browser=False)
    (settings,) = started
    assert settings["server.address"] == "127.0.0.1"
    assert settings["server.port"] == 8501
    assert settings["server.headless"] is True
    assert settings["server.allowedHosts"] == ["localhost", "127.0.0.1"]
    assert settings["server.fileWatcherType"] == "none"
    assert settings["browser.gatherUsageStats"] is False
    assert settings["client.showErrorDetails"] == "type"
    assert {"theme.light.primaryColor", "theme.dark.primaryColor"} <= set(settings)


@pytest.mark.parametrize("open_browser", [True, False])
def test_streamlit_never_knows_of_a_browser(started: list[dict[str, Any]], open_browser: bool) -> None:
    serve(open_browser=open_browser)
    assert started[0]["server.headless"] is True


@pytest.mark.parametrize(
    ("address", "secure", "folder", "url"),
    [
        ("127.0.0.1", None, "", "http://127.0.0.1:8501"),
        ("0.0.0.0", None, "/of/mine/", "http://localhost:8501/of/mine/"),
        ("::1", "certificate.pem", "", "https://[::1]:8501"),
    ],
)
@pytest.mark.parametrize("screen", [True, False])
def test_the_browser_opens_only_when_the_app_answers(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    secure: str | None,
    folder: str,
    url: str,
    screen: bool,
) -> None:
    asked: list[Any] = []
    opened: list[str] = []
    options = {"server.sslCertFile": secure, "server.baseUrlPath": folder}

    def answers(*where: Any) -> bool:
        assert not opened
        asked.append(where)
        return len(asked) == 3

    monkeypatch.setattr(module.st, "get_option", options.get)
    monkeypatch.setattr(module, "_answers", answers)
    monkeypatch.setattr(module.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(module.subprocess, "run", lambda command, **_: opened.append(command[-1]))
    module._greet(module._typed(address), 8501, open_browser=True)
    path = f"/{folder.strip('/')}/_stcore/health".replace("//", "/")
    assert asked == [(module._typed(address), 8501, bool(secure), path)] * 3
    assert f"slicescope is at {url} (" in capsys.readouterr().out
    assert opened == ([url] if screen else [])


def test_a_server_that_never_answers_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    module._greet("127.0.0.1", 9, open_browser=True)  # port 9: nobody is there
    assert capsys.readouterr().out == ""


def test_every_setting_is_one_that_streamlit_knows(started: list[dict[str, Any]]) -> None:
    from streamlit import config

    serve()
    assert set(started[0]) - {"paced"} <= set(config._config_options_template)


def test_another_address_is_warned_of(
    started: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    serve(address="0.0.0.0", port=9000)
    assert "reaches 0.0.0.0 can use this app with your rights" in caplog.text
    assert "the names localhost, 127.0.0.1 only" in caplog.text


@pytest.mark.parametrize(
    ("address", "hosts", "names"),
    [
        ("127.0.0.1", (), ["localhost", "127.0.0.1"]),
        ("0.0.0.0", (), ["localhost", "127.0.0.1"]),
        ("::", (), ["localhost", "127.0.0.1"]),
        ("192.0.2.7", (), ["localhost", "127.0.0.1", "192.0.2.7"]),
        ("127.0.0.1", ("slices.example.org",), ["localhost", "127.0.0.1", "slices.example.org"]),
    ],
)
def test_names_are_added_and_the_check_is_never_switched_off(
    started: list[dict[str, Any]], address: str, hosts: tuple[str, ...], names: list[str]
) -> None:
    serve(address=address, hosts=hosts)
    assert started[0]["server.allowedHosts"] == names


def test_the_policy_is_enforced(started: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    assert not enforced().demo_mode
    serve(address="0.0.0.0", policy=Policy.demo())
    assert enforced().demo_mode
    assert "with your rights" not in caplog.text


@pytest.mark.parametrize(
    ("asked", "paced"),
    [
        ({}, False),
        ({"policy": Policy.demo()}, True),
        ({"address": "0.0.0.0"}, True),
        ({"hosts": ["slices.example.org"]}, True),
    ],
)
def test_whoever_others_can_reach_has_a_pace(
    started: list[dict[str, Any]], asked: dict[str, Any], paced: bool
) -> None:
    serve(**asked)
    assert enforced().paced is started[0]["paced"] is paced


def secrets(content: str) -> None:
    folder = Path.cwd() / ".streamlit"
    folder.mkdir()
    (folder / "secrets.toml").write_text(content)


LOGIN = '[auth]\nredirect_uri = "https://slices.example.org/oauth2callback"\n'


def test_a_login_takes_the_warning_away(
    started: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    secrets(LOGIN)
    serve(address="0.0.0.0")
    assert "with your rights" not in caplog.text
    assert str(Path.cwd() / ".streamlit" / "secrets.toml") in started[0]["secrets.files"]


@pytest.mark.parametrize("content", ["[auth", "[auth]"])
def test_secrets_that_would_let_everybody_in_stop_the_start(
    started: list[dict[str, Any]], content: str
) -> None:
    secrets(content)
    with pytest.raises(StorageError, match=r"secrets\.toml"):
        serve()
    assert started == []


def test_a_login_without_its_package_stops_the_start(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    secrets(LOGIN)
    with pytest.raises(SlicescopeError, match="Authlib"):
        serve()
    assert started == []


def request(app: Any, path: str, kind: str = "http") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": kind, "path": path, "headers": []}, None, send))
    return sent


def test_the_queue_is_looked_after_whatever_goes_wrong_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def tend() -> None:
        looks.append(len(looks))
        raise OSError("The disk is away.")

    monkeypatch.setattr(state, "worker", lambda: SimpleNamespace(stop=lambda: None))
    monkeypatch.setattr(state, "tend", tend)
    monkeypatch.setattr(module, "TENDING", 0.01)

    async def life() -> None:
        async with module._worker():
            while len(looks) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(life(), 10))


async def page(scope: Any, receive: Any, send: Any) -> None:
    given = [(b"content-type", b"text/html"), (b"X-Content-Type-Options", b"other")]
    await send({"type": "http.response.start", "status": 200, "headers": given})


def test_every_answer_has_the_headers_once() -> None:
    (start,) = request(Security(page), "/")
    names = [name.lower() for name, _ in start["headers"]]
    assert sorted(names) == sorted({b"content-type", *(name.encode() for name in headers())})
    assert dict(start["headers"])[b"x-content-type-options"] == b"nosniff"
    (start,) = request(Security(page), "/_stcore/stream", kind="websocket")
    assert len(start["headers"]) == 2


def test_scripts_from_elsewhere_and_unknown_ones_are_forbidden() -> None:
    rules = dict(rule.split(" ", 1) for rule in headers()["content-security-policy"].split("; "))
    assert rules["default-src"] == "'self'"
    assert "unsafe" not in rules["script-src"] and "http" not in rules["script-src"]
    assert rules["frame-ancestors"] == "'self'"
    assert rules["script-src"].count("sha256-") == len(set(inline_scripts()))


def test_frames_of_other_origins_are_opt_in() -> None:
    policy = headers(["https://course.example.org"])["content-security-policy"]
    assert "frame-ancestors 'self' https://course.example.org" in policy


@pytest.mark.parametrize(
    "origin", ["*", "https://a.org; script-src *", "course.example.org", "https://a.org/x", ""]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SlicescopeError, match="not an origin"):
        headers([origin])


def test_the_command_line_makes_the_policy(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("sys.argv", ["slicescope", "app", "--no-open", "--root", "models", "--host", "a.org"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert enforced().roots == (Path("models"),) and not enforced().demo_mode
    assert enforced().minutes is None
    assert "a.org" in started[0]["server.allowedHosts"]
    arguments = ["slicescope", "app", "--demo-mode", "--allow-model", "a/b", "--allow-model", "demo"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        main()
    assert enforced().demo_mode
    assert enforced().models[0].label == "a/b"  # type: ignore[index]
    assert enforced().minutes == 15
    for demo in ([], ["--demo-mode"]):
        monkeypatch.setattr("sys.argv", ["slicescope", "app", *demo, "--job-minutes", "3"])
        with pytest.raises(SystemExit):
            main()
        assert enforced().minutes == 3


def test_the_worker_lives_as_long_as_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Worker:
        def stop(self) -> None:
            told.append("stopped")

    worker = Worker()
    monkeypatch.setattr(state, "worker", lambda: worker)

    async def life() -> None:
        async with module._worker():
            assert told == []

    asyncio.run(life())
    assert told == ["stopped"]


def _status(path: str, kind: str = "http", **told: str) -> int | str:
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start" if kind == "http" else "websocket.accept", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    names = [(name.encode(), value.encode()) for name, value in told.items()]
    guard = Security(inner, hosts=["Course.example.org"])
    asyncio.run(guard({"type": kind, "path": path, "headers": names}, None, send))
    return sent[0]["status"] if kind == "http" else sent[0]["type"]


@pytest.mark.parametrize(
    "path",
    [
        *("metrics", "script-health-check", "agent/interact", "agent/mcp", "agent/openapi.json"),
        *("bidi-components/a/b.js", "allowed-message-origins", "upload_files", "health/"),
    ],
)
def test_what_no_page_needs_is_closed(path: str) -> None:
    assert _status(f"/_stcore/{path}") == _status(f"/of/mine/_stcore/{path}") == 404
    assert _status("/component/a/b.js") == 404


@pytest.mark.parametrize(
    "path",
    ["/", "/profile", "/media/a.png", "/static/js/index.js"]
    + [f"/of/mine/_stcore/{path}" for path in ("health", "host-config", "upload_file/a/b")],
)
def test_what_pages_need_is_open(path: str) -> None:
    assert _status(path) == 200


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("http://localhost:8501", "websocket.accept"),
        ("https://course.example.org", "websocket.accept"),
        ("http://localhost:9999", "websocket.close"),
        ("http://course.example.org:9999", "websocket.close"),
        ("http://localhost", "websocket.close"),
        ("null", "websocket.close"),
    ],
)
def test_an_origin_is_compared_with_its_port(origin: str, answer: str) -> None:
    assert _status("/_stcore/stream", "websocket", host="localhost:8501", origin=origin) == answer


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(module.st, "App", None)
    with pytest.raises(SlicescopeError, match="cannot listen on the address"):
        serve(address=address, open_browser=False)


def test_a_port_in_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.st, "App", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SlicescopeError, match=rf"The port {port} is in use.*--port, such as \d+\.$"):
            serve(port=port, open_browser=False)


def test_a_port_that_was_used_a_moment_ago_is_taken() -> None:
    with socket.socket() as server, socket.socket() as visitor:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        visitor.connect(("127.0.0.1", port))
        server.accept()[0].close()  # the server closes first, and so its end stays behind for a minute
    module._require_bindable("127.0.0.1", port)


def test_a_port_without_rights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: Any, where: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.socket, "socket", type("Socket", (socket.socket,), {"bind": bind}))
    with pytest.raises(SlicescopeError, match=r"The port 80 may not be used.*such as 8501\.$"):
        module._require_bindable("127.0.0.1", 80)


@pytest.mark.parametrize(("name", "told"), [("gone", "does not exist"), ("file", "is no folder")])
def test_a_root_that_is_no_folder_is_refused(
    started: list[dict[str, Any]], tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"The root '.*{name}' {told}: give a folder"):
        serve(policy=Policy(roots=(tmp_path, tmp_path / name)))
    assert not started


def test_a_wrong_origin_is_refused_before_the_start(started: list[dict[str, Any]]) -> None:
    with pytest.raises(SlicescopeError, match="not an origin"):
        serve(open_browser=False, frames=["*"])
    assert not started

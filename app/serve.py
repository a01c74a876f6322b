"""Starting the server of the app, and showing where it is. Its settings are those of ``streamlit.toml``.

Knows nothing about pages.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import ipaddress
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import streamlit as st
import typer
from starlette.middleware import Middleware

from analysis.errors import SlicescopeError, StorageError, one_line, visible
from analysis.storage import storage_errors
from app.pace import Connections
from app.policy import Policy, enforce
from app.security import Security, headers
from app.uploads import Uploads

log = logging.getLogger(__name__)
CONFIG = Path(__file__).with_name("streamlit.toml")
PATIENCE = 120
"""Seconds that the server may take until it answers."""
SWITCHING = 0.0005
"""Seconds that a page being drawn may keep the interpreter from the server, which needs it for every send."""
TENDING = 1.0
"""Seconds between looks at the queue."""


def serve(
    port: int = 8501,
    address: str = "127.0.0.1",
    open_browser: bool = True,
    policy: Policy | None = None,
    hosts: Sequence[str] = (),
    frames: Sequence[str] = (),
) -> None:
    """Serve the app until it is interrupted. Only this machine can reach the default address.

    Whoever reaches another one can do what the policy allows with this user's rights. ``hosts`` are the names
    under which it is reached, ``frames`` the origins whose pages may show it in a frame.
    """
    policy = policy or Policy()
    settings = dict(_flat(tomllib.loads(CONFIG.read_text(encoding="utf-8"))))
    settings |= {"server.port": port, "server.address": address}
    settings["server.allowedHosts"] = names = _names(settings["server.allowedHosts"], address, hosts)
    settings["secrets.files"] = [str(folder / ".streamlit" / "secrets.toml") for folder in _folders()]
    logins = [_asks_for_login(Path(file)) for file in settings["secrets.files"]]
    if not (policy.demo_mode or any(logins) or _is_loopback(address)):
        log.warning(
            "Whoever reaches %s can use this app with your rights, and it asks for no login: see "
            "'Colleagues, with a login' in docs/serving.md, or start it with --demo-mode.",
            visible(address),
        )
    if not _is_loopback(address):
        log.warning(
            "It answers to the names %s only: allow another one with --host.", visible(", ".join(names))
        )
    headers(frames)  # refuses a wrong origin before the server starts
    _require_folders(policy.roots or ())
    _require_bindable(address, port)
    sys.setswitchinterval(SWITCHING)
    paced = policy.demo_mode or bool(hosts) or not _is_loopback(address)
    enforce(policy.model_copy(update={"paced": paced}))
    middleware = [
        Middleware(Security, frames=frames, hosts=hosts),
        Middleware(Uploads, taken=policy.may_import),
        Middleware(Connections, paced=paced),
    ]
    script = Path(__file__).with_name("main.py")

    @asynccontextmanager
    async def life(_app: st.App) -> AsyncIterator[None]:
        # The port is ours by now: whatever answers there is this server.
        greeting = (_typed(address), port, open_browser)
        threading.Thread(target=_greet, args=greeting, name="slicescope-greeting", daemon=True).start()
        async with _worker():
            yield

    st.App(script, lifespan=life, middleware=middleware).run(config=settings)


def _require_bindable(address: str, port: int) -> None:
    """Refuse an address that is not one of this machine, and a port that cannot be had."""
    try:
        family, kind, protocol, _, reached = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
            probe.bind(reached)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        another = f"choose another one with --port, such as {_neighbour(port)}."
        told = {
            errno.EADDRINUSE: f"The port {port} is in use, perhaps by another slicescope: {another}",
            errno.EACCES: f"The port {port} may not be used without more rights: {another}",
        }
        address_told = (
            f"The server cannot listen on the address '{address}' ({one_line(error)}): give an address of "
            "this machine, such as 127.0.0.1, or 0.0.0.0 for all of them."
        )
        raise SlicescopeError(told.get(number or 0, address_told)) from None


def _neighbour(port: int) -> int:
    """Another port to try, that needs no rights."""
    return port + 1 if 1024 <= port < 65535 else 8501


def _require_folders(roots: Sequence[Path]) -> None:
    for root in roots:
        with storage_errors(root):
            if not root.expanduser().is_dir():
                there = "is no folder" if root.expanduser().exists() else "does not exist"
                raise StorageError(f"The root '{root}' {there}: give a folder that is there with --root.")


def _names(usual: Sequence[str], address: str, hosts: Sequence[str]) -> list[str]:
    """The names that the app answers to: another site's name that leads here is refused."""
    return list(dict.fromkeys([*usual, *([address] if _typed(address) == address else []), *hosts]))


def _typed(address: str) -> str:
    """Give the name to type on this machine to reach the address, also where that means every address."""
    return "localhost" if address in ("0.0.0.0", "::") else address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name
        return address == "localhost"


def _folders() -> tuple[Path, Path]:
    return Path.home(), Path.cwd()


def _asks_for_login(secrets: Path) -> bool:
    """Whether a file of secrets has a login. Streamlit would pass over a broken one and let everybody in."""
    if not secrets.exists():
        return False
    try:
        login = tomllib.loads(secrets.read_text(encoding="utf-8")).get("auth")
    except (OSError, ValueError) as error:
        raise StorageError(
            f"'{secrets}' cannot be read ({one_line(error)}): correct it, or delete it."
        ) from None
    if login is not None and not login:
        raise StorageError(
            f"'{secrets}' has an empty section [auth], which lets everybody in: fill or delete it."
        )
    if login and importlib.util.find_spec("authlib") is None:
        raise SlicescopeError("A login needs the package Authlib: run \"pip install 'slicescope[auth]'\".")
    return bool(login)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names for nested tables, as streamlit wants them."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@asynccontextmanager
async def _worker() -> AsyncIterator[None]:
    """Start the worker before the first page, so that it need not wait for torch, and end it cleanly."""
    from app.state import worker

    worker()
    tending = asyncio.create_task(_tend())
    yield
    tending.cancel()
    worker().stop()


async def _tend() -> None:
    """Look after the queue for as long as the server runs."""
    from app.state import tend

    while True:
        await asyncio.sleep(TENDING)
        try:
            await asyncio.to_thread(tend)  # it may start a process
        except Exception:  # the queue is looked after again in a moment
            log.exception("The queue could not be looked after.")


def _greet(host: str, port: int, open_browser: bool) -> None:
    """Say where the app is as soon as it answers, and open the browser there.

    Streamlit is told that there is none (``server.headless``), since it advertises in those that it knows of.
    """
    secure, folder = bool(st.get_option("server.sslCertFile")), st.get_option("server.baseUrlPath").strip("/")
    path = f"/{folder}/" if folder else "/"
    end = time.monotonic() + PATIENCE
    while not _answers(host, port, secure, f"{path}_stcore/health"):
        if time.monotonic() > end:
            return
        time.sleep(0.1)
    name = f"[{host}]" if ":" in host else host
    url = f"{'https' if secure else 'http'}://{name}:{port}{path if folder else ''}"
    typer.echo(f"\n  slicescope is at {url} (Ctrl-C ends it).\n")
    if open_browser and _has_screen():
        # A process of its own, which can neither write into this terminal nor hold up anything here.
        subprocess.run(
            [sys.executable, "-I", "-m", "webbrowser", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _answers(host: str, port: int, secure: bool, path: str) -> bool:
    # Not by urllib, which may ask a proxy; and a certificate for another name is none of our business.
    connection = (
        HTTPSConnection(host, port, timeout=5, context=ssl._create_unverified_context())
        if secure
        else HTTPConnection(host, port, timeout=5)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _has_screen() -> bool:
    """Whether a browser has somewhere to open. Without a screen Python would start one in this terminal."""
    chosen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return chosen or sys.platform in ("darwin", "win32")

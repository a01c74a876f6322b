"""Starting the server of the app. The settings are those of ``.streamlit/config.toml``, wherever one stands.

Knows nothing about pages.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from analysis.errors import SlicescopeError, StorageError, one_line
from app.policy import Policy, enforce
from app.security import Security

log = logging.getLogger(__name__)
CONFIG = Path(__file__).parents[1] / ".streamlit" / "config.toml"


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
    settings |= {"server.port": port, "server.address": address, "server.headless": not open_browser}
    settings["server.allowedHosts"] = names = _names(settings["server.allowedHosts"], address, hosts)
    settings["secrets.files"] = [str(folder / ".streamlit" / "secrets.toml") for folder in _folders()]
    logins = [_asks_for_login(Path(file)) for file in settings["secrets.files"]]
    if not (policy.demo_mode or any(logins) or _is_loopback(address)):
        log.warning(
            "Whoever reaches %s can use this app with your rights, and it asks for no login: see 'Serving "
            "others' in the README, or start it with --demo-mode.",
            address,
        )
    if not _is_loopback(address):
        log.warning("It answers to the names %s only: allow another one with --host.", ", ".join(names))
    enforce(policy)
    security = Middleware(Security, frames=frames, uploads=policy.may_import)
    script = Path(__file__).with_name("main.py")
    st.App(script, lifespan=_with_worker, middleware=[security]).run(config=settings)


def _names(usual: Sequence[str], address: str, hosts: Sequence[str]) -> list[str]:
    """The names that the app answers to: another site's name that leads here is refused."""
    everywhere = address in ("0.0.0.0", "::")  # which nobody types
    return list(dict.fromkeys([*usual, *([] if everywhere else [address]), *hosts]))


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
async def _with_worker(_app: st.App) -> AsyncIterator[None]:
    """Start the worker before the first page, so that it need not wait for torch, and end it cleanly."""
    from app.state import worker

    worker()
    yield
    worker().stop()

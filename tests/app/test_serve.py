"""The server binds this machine only, reads its settings from the repository, and sends nothing anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app import serve as module
from app import state
from app.serve import serve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of every start, instead of a server."""
    settings: list[dict[str, Any]] = []

    class App:
        def __init__(self, script: Path, lifespan: Any) -> None:
            assert script.is_file()

        def run(self, config: dict[str, Any]) -> None:
            settings.append(config)

    monkeypatch.setattr(module.st, "App", App)
    return settings


def test_the_defaults_are_private(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
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


def test_every_setting_is_one_that_streamlit_knows(started: list[dict[str, Any]]) -> None:
    from streamlit import config

    serve()
    assert set(started[0]) <= set(config._config_options_template)


def test_another_address_is_warned_of(
    started: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    serve(address="0.0.0.0", port=9000)
    assert started[0]["server.allowedHosts"] == []
    assert "0.0.0.0 can use this app with your rights" in caplog.text


def test_the_worker_lives_as_long_as_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Worker:
        def stop(self) -> None:
            told.append("stopped")

    worker = Worker()
    monkeypatch.setattr(state, "worker", lambda: worker)

    async def life() -> None:
        async with module._with_worker(None):  # type: ignore[arg-type]
            assert told == []

    asyncio.run(life())
    assert told == ["stopped"]

"""No visitor of a server in demo mode reads where its owner keeps things."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from conftest import byte_tokenizer, tiny_model
from serving import ROOT, Server, serving
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from app.policy import Policy
from app.repeat import command, study_file
from app.report import build_report
from slicing.library import pack
from slicing.plans import Plan
from slicing.studies.requests import ProfileRequest
from slicing.studies.results import Run
from slicing.studies.run import perform
from slicing.studies.study import comparison

MARKER = "owner-of-this"
PAGES = (
    "shrink",
    "model",
    "profile",
    "tune",
    "compare",
    "sweep",
    "contest",
    "leaderboard",
    "runs",
    "talk",
    "notes",
    "slides",
)
PATHS = (
    *("/", "/_stcore/health", "/_stcore/host-config", "/_stcore/script-health-check", "/_stcore/metrics"),
    *("/_stcore/agent/openapi.json", "/media/none.png", "/component/none/a.js", "/main.py"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(MARKER)


@pytest.fixture(scope="module")
def made(home: Path) -> Iterator[dict[str, Run]]:
    """What the owner measured, on a model and texts of their own."""
    model, text = home / "model", home / "text.txt"
    tiny_model("llama").save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    text.write_text("A path in possession of a name must be in want of a reader. " * 90)
    source = ModelSource.parse(str(model))
    one, other = (TextSource.parse(str(text), role) for role in ("calibration", "evaluation"))
    few: dict[str, Any] = {"window_length": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICESCOPE_HOME", str(home))
        yield {
            "profile": perform(ProfileRequest(model=source, text=one, windows=3, **few)),
            "compare": perform(
                comparison(
                    Plan(target=0.25),
                    model=source,
                    calibration=one,
                    calibration_windows=3,
                    profile_windows=3,
                    evaluation=other,
                    evaluation_windows=4,
                    new_tokens=3,
                    **few,
                )
            ),
        }


@pytest.fixture(scope="module")
def server(home: Path, made: dict[str, Run]) -> Iterator[Server]:
    with serving(home, "--demo-mode", "--allow-model", str(home / "model")) as server:
        yield server


async def drawn(server: Server, page: str, query: str) -> bytes:
    """Everything that a page is told until it is drawn."""
    asked, heard = BackMsg(), b""
    asked.rerun_script.page_name, asked.rerun_script.query_string = page, query
    where = f"{server.address.replace('http', 'ws')}/_stcore/stream"
    async with websockets.connect(where, subprotocols=["streamlit"], max_size=None) as line:
        await line.send(asked.SerializeToString())
        while True:
            message = await line.recv()
            assert isinstance(message, bytes)
            heard += message
            if ForwardMsg.FromString(message).WhichOneof("type") == "script_finished":
                return heard


def answer(server: Server, path: str) -> bytes:
    with closing(http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=30)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def repeated(request: Any) -> str:
    """What repeats a request: its command, and the study file that this names."""
    return command(request) + (study_file(request) if request.kind == "study" else "")


def leaks(content: bytes) -> list[bytes]:
    """Where the owner's folder, or the program's, is named."""
    return re.findall(rb".{0,60}(?:%s|%s).{0,60}" % (MARKER.encode(), str(ROOT / "app").encode()), content)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_folder(server: Server, made: dict[str, Run], page: str) -> None:
    query = "&".join(f"{view}={run.key}" for view, run in made.items())
    heard = asyncio.run(asyncio.wait_for(drawn(server, page, query), 120))
    assert leaks(heard) == []
    if page in made:  # it is the owner's run that was drawn, with its command
        assert made[page].key.encode() in heard and any(
            told in heard for told in (b"--model model ", b'model = "model"', b"model.toml")
        )
    for file in set(re.findall(rb"/media/[0-9a-f]+\.\w+", heard)):
        assert leaks(answer(server, file.decode())) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
def test_no_answer_names_a_folder(server: Server, path: str) -> None:
    assert leaks(answer(server, path)) == []


@pytest.mark.parametrize("demo_mode", [True, False])
def test_what_is_taken_away_names_folders_to_their_owner_alone(
    home: Path, made: dict[str, Run], monkeypatch: pytest.MonkeyPatch, demo_mode: bool
) -> None:
    monkeypatch.setenv("SLICESCOPE_HOME", str(home))
    blind = Policy(demo_mode=demo_mode).blind
    for run in made.values():
        packed = zipfile.ZipFile(io.BytesIO(pack(run.key, blind)))
        shown = blind(run)
        assert shown.key == run.key
        told = [shown.to_json(), build_report(shown), repeated(shown.request), repeated(blind(run.request))]
        told.append(packed.read("run.json").decode())
        assert [MARKER in each for each in told] == [not demo_mode] * len(told)
        others = [packed.read(name) for name in packed.namelist() if name != "run.json"]
        assert not any(MARKER.encode() in each for each in others)

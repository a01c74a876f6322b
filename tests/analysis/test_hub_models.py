"""Models on the Hub, which here is a folder served on the loopback interface that notes what it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, tiny_model

OPEN = """
import sys
from analysis.errors import SlicescopeError
from analysis.source import ModelSource, describe, open_dense
for name in sys.argv[1:]:
    try:
        source = ModelSource.parse(name)
        before, model = describe(source), open_dense(source).model
        count = sum(parameter.numel() for parameter in model.parameters())
        after, head = describe(source), "tied" if model.config.tie_word_embeddings else "own"
        print(name, before.parameters, after.parameters, count, head, type(model).__name__)
    except SlicescopeError as error:
        print(name, type(error).__name__, error)
"""


def commit_of(revision: Path) -> str:
    """A stand-in for the commit hash: forty hex digits, fixed by the place."""
    return sha1(str(revision).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Repositories)
        self.folder = folder
        self.asked: list[str] = []


class Repositories(BaseHTTPRequestHandler):
    """``/owner/name/resolve/revision/file`` from ``folder/owner/name/revision/file``, and hardly more."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/")
        owner, name, verb, revision, *path = [*parts, "", "", "", ""]
        repository = self.server.folder / owner / name
        known = {each: each for each in repository.glob("*")}
        known |= {repository / commit_of(each): each for each in known}
        folder = known.get(repository / revision)
        if not owner:
            self.reply(200)
        elif not known:
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif folder is None:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif verb == "revision":
            facts = {"id": f"{owner}/{name}", "sha": commit_of(folder), "siblings": []}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())
        elif verb != "resolve" or not folder.joinpath(*path).is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_of(folder)})
        else:
            content = folder.joinpath(*path).read_bytes()
            tag = f'"{sha1(content).hexdigest()}"'
            self.reply(200, {"ETag": tag, "X-Repo-Commit": commit_of(folder)}, content)

    def reply(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], list[str]]]:
    """What was said of each model, and everything the Hub was asked: one process, for it is slow to start."""
    folder = tmp_path_factory.mktemp("hub")
    for place in ("owner/whole/main", "owner/whole/v1", "owner/pickled/main"):
        tiny_model("llama").save_pretrained(folder / place)
        byte_tokenizer().save_pretrained(folder / place)
    (folder / "owner/pickled/main/model.safetensors").unlink()
    tiny_model("llama", tie_word_embeddings=False).save_pretrained(folder / "owner/mistied/main")
    byte_tokenizer().save_pretrained(folder / "owner/mistied/main")
    config = folder / "owner/mistied/main/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    torch.save({}, folder / "owner/pickled/main/pytorch_model.bin")
    foreign = folder / "owner/foreign/main"
    foreign.mkdir(parents=True)
    (foreign / "own.py").write_text("raise SystemExit('executed')\n")
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (foreign / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))

    names = ["whole", "whole@v1", "whole@v2", "mistied", "pickled", "foreign", "missing"]
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path_factory.mktemp("cache")),
        }
        answer = subprocess.run(
            [sys.executable, "-c", OPEN, *(f"owner/{name}" for name in names)],
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        hub.shutdown()
    lines = answer.stdout.splitlines()
    assert len(lines) == len(names), answer.stdout
    yield {name: line.partition(" ")[2] for name, line in zip(names, lines, strict=True)}, hub.asked


@pytest.mark.parametrize("name", ["whole", "whole@v1"])
def test_model_on_the_hub_is_described_and_opened(answers, name):
    parameters = sum(parameter.numel() for parameter in tiny_model("llama").parameters())
    assert answers[0][name] == f"{parameters} {parameters} {parameters} tied LlamaForCausalLM"


def test_head_of_its_own_is_noticed_once_the_weights_are_here(answers):
    tied, own = (
        sum(parameter.numel() for parameter in tiny_model("llama", tie_word_embeddings=each).parameters())
        for each in (True, False)
    )
    assert answers[0]["mistied"] == f"{tied} {own} {own} own LlamaForCausalLM"


@pytest.mark.parametrize("name", ["whole@v2", "pickled", "foreign", "missing"])
def test_what_the_hub_does_not_give_is_one_sentence(answers, name):
    said = answers[0][name]
    assert said.startswith(f"ModelError The model 'owner/{name}' cannot be fetched from the Hub (")
    assert said.endswith("or give a local folder, a GGUF file or 'demo'.")


def test_nothing_pickled_and_no_code_is_even_asked_for(answers):
    assert not [line for line in answers[1] if line.endswith((".bin", ".py"))]
    # transformers can ask a robot to convert pickled weights, which opens a pull request there.
    assert not [line for line in answers[1] if "discussions" in line or line.startswith("POST")]

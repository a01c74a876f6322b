"""Files that other places read: images, Spaces, citations and forms for issues."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from pages import ROOT, parse
from serving import free_port, wait_until_it_answers

from app.citations import ENTRIES


def dockerfile() -> list[str]:
    """The instructions of the Dockerfile, each in one line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def command(instruction: str) -> list[str]:
    """The words behind CMD in the last line that begins with this instruction."""
    line = [line for line in dockerfile() if line.startswith(instruction)][-1]
    return json.loads(line.partition("CMD ")[2])


def test_the_citation_names_the_program_and_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert cited["version"] == version("slicescope")
    (paper,) = cited["references"]
    (entry,) = [each for each in ENTRIES.values() if "Change Is the Only Constant" in each.replace("{", "")]
    bare = " ".join(entry.replace("{", "").replace("}", "").split())
    assert paper["title"].lower() in bare.lower()
    assert all(author["family-names"] in bare for author in paper["authors"])
    assert str(paper["year"]) in bare


def test_the_command_of_the_image_is_one_for_strangers():
    given = parse(command("CMD"))
    assert given["demo_mode"] is True
    assert given["open_browser"] is False
    assert dockerfile().index("USER slicescope") < len(dockerfile()) - 1
    assert f"EXPOSE {given['port']}" in dockerfile()


def test_what_the_image_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in (
        "app",
        "analysis",
        "slicing",
        "assets",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
    ):
        assert (ROOT / name).exists()
        assert name not in ignored


def test_the_image_starts_and_is_healthy(tmp_path):
    port = str(free_port())
    words = [port if word == "8501" else word for word in command("CMD")[1:]]
    environment = {
        **os.environ,
        "SLICESCOPE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words], cwd=tmp_path, env=environment, stdout=file, stderr=file
        )
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}", server, log)
        asked = [word.replace("8501", port) for word in command("HEALTHCHECK")[1:]]
        subprocess.run([sys.executable, *asked], check=True, timeout=30)
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text()


def test_the_space_is_one_of_docker():
    page = (ROOT / "spaces" / "README.md").read_text(encoding="utf-8")
    about = yaml.safe_load(page.split("---\n")[1])
    assert about["sdk"] == "docker"
    assert about["title"] == "slicescope"
    assert len(about["short_description"]) <= 60
    words = shlex.split(re.findall(r"^CMD (.+)$", page, re.MULTILINE)[0])
    given = parse([word.replace("$SPACE_HOST", "space.example.org") for word in words])
    assert given["demo_mode"] is True
    assert given["port"] == about["app_port"]


def test_forms_for_issues_are_forms():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    read = {Path(form).name: yaml.safe_load(form.read_text(encoding="utf-8")) for form in forms}
    assert read.pop("config.yml") == {"blank_issues_enabled": True}
    assert read
    for form in read.values():
        assert {"name", "description", "body"} <= set(form)
        assert all(each["type"] == "markdown" or each["id"] for each in form["body"])

"""What one installs is the whole product: a wheel, used far from the repository and from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import pytest
from conftest import byte_tokenizer, tiny_model
from serving import MISSING, chromium, eventually, free_port, go, visit, wait_until_it_answers

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "slicing", "app")
SOURCE = (*ROOMS, "assets", "tests", "pyproject.toml", "README.md", "LICENSE")


class Installed(NamedTuple):
    """An environment with the wheel and all that the tests have, but not the repository."""

    wheel: Path
    program: Path
    packages: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("wheel")
    for name in SOURCE:  # building leaves things behind, and takes in what was left behind
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, home / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, home / "source")
    flags = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", *flags, "--no-build-isolation", "--wheel-dir", str(home), str(home / "source")]
    subprocess.run(build, check=True)
    (wheel,) = home.glob("*.whl")
    venv.create(home / "venv", symlinks=True)
    (packages,) = (home / "venv").glob("lib/python*/site-packages")
    # A line of a .pth file is a folder, whose own .pth files, such as that of the repository, are not read.
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    python = home / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", *flags, str(wheel)], check=True)
    return Installed(wheel, python.with_name("slicescope"), packages)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a user, who has a home of their own."""
    ours = {"SLICESCOPE_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours


@pytest.fixture
def nowhere(tmp_path: Path, installed: Installed) -> Iterator[Path]:
    """An empty folder where nothing may be written, nor where the product is installed."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    folder.chmod(0o500)  # root may write all the same, so it is looked at afterwards
    before = sorted(installed.packages.rglob("*"))
    yield folder
    assert list(folder.iterdir()) == []
    assert sorted(installed.packages.rglob("*")) == before


def files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_has_all_that_it_needs_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        about = {Path(name).name for name in wheel.namelist() if ".dist-info/" in name}
    ours = {f"{room}/{name}" for room in ROOMS for name in files(ROOT / room)}
    shipped = {
        f"slicing/assets/{name}" for name in files(ROOT / "assets") if name.startswith(("demo-", "studies/"))
    }
    assert names == ours | shipped
    runs = {f"slicing/assets/{name}/run.json" for name in ("demo-run", "demo-energy")}
    assert {"app/streamlit.toml", "app/icons/favicon.svg", *runs} <= names
    assert {"LICENSE", "entry_points.txt"} <= about
    assert installed.wheel.stat().st_size < 2 * 2**20


def test_the_commands_run(installed, environment, nowhere, tmp_path) -> None:
    def slicescope(*arguments: str | Path) -> str:
        command = [installed.program, *arguments]
        return subprocess.run(
            command, cwd=nowhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert slicescope("--version") == "slicescope 0.1.0\n"
    slicescope("report", "demo", "--out", tmp_path / "report.html")
    assert "SmolLM2-135M" in (tmp_path / "report.html").read_text()
    model, text = tmp_path / "model", tmp_path / "text.txt"
    tiny_model("llama").save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    text.write_text("It is a truth universally acknowledged. " * 20)
    measured = ["--text", text, "--windows", "2", "--window-length", "32"]
    assert "planned at SP 25.00%: mean slice 25.0%" in slicescope("plan", "--model", model, *measured)
    # Study files that ship are reached by their names from anywhere; this one's text is the demo's.
    refused = subprocess.run(
        [installed.program, "study", "quick.toml", "--executor", "nonsense"],
        cwd=nowhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 5 and "The executor 'nonsense'" in refused.stderr


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_app_is_served(installed, environment, nowhere, tmp_path) -> None:
    port = free_port()
    address, log = f"http://127.0.0.1:{port}", tmp_path / "log.txt"
    command = [installed.program, "app", "--no-open", "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=nowhere, env=environment, stdout=file, stderr=file)
    try:
        wait_until_it_answers(address, server, log)
        with chromium() as browser:
            page = visit(browser, address)
            assert page.locator("h1").first.inner_text() == "Make it smaller"
            page.get_by_text("Best so far for 20\N{NO-BREAK SPACE}% fewer parameters").first.wait_for()
            go(page, "Profile")
            page.get_by_text("The demo run that ships with slicescope").first.wait_for()
            logo = page.get_by_test_id("stHeaderLogo")
            logo.wait_for()
            has_come = "image => image.complete && image.naturalWidth > 0"
            eventually(page, lambda: logo.evaluate(has_come), "the logo is drawn")
            icon = page.locator("link[rel='shortcut icon'], link[rel='icon']").first.get_attribute("href")
            with urllib.request.urlopen(urljoin(address, icon)) as answer:
                favicon = answer.read()
            assert favicon == (ROOT / "app" / "icons" / "favicon.svg").read_bytes()
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text()


def test_the_python_interface_draws(installed, environment, nowhere) -> None:
    """What draws is found by its entry point, whatever folder one is in."""
    script = (
        "import slicing; from importlib.metadata import entry_points; "
        "from slicing.interface.views import views; "
        "print([each.value for each in entry_points(group='slicescope.views')], views().__file__)"
    )
    python = installed.program.with_name("python")
    done = subprocess.run(
        [python, "-c", script], cwd=nowhere, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["['app.views']", str(installed.packages / "app" / "views.py")]

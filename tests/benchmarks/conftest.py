"""The table at the end of a benchmark run, on the screen and in ``build/benchmarks.md``."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from benchmarks.report import Table

REPORT = Path(__file__).parents[2] / "build" / "benchmarks.md"
TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option: smaller budgets, to see that the suite runs."""
    parser.addoption(
        "--budget",
        default="16x512",
        metavar="WINDOWSxTOKENS",
        help="calibration windows of the demo model; any but the default asserts no speed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start the table."""
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """Where a benchmark writes its lines."""
    return request.config.stash[TABLE]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and keep it."""
    table = config.stash.get(TABLE, None)
    if table is None or not table.rows:
        return
    arguments = shlex.join(config.invocation_params.args)
    text = table.markdown(f".venv/bin/python -m pytest {arguments}")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text + "\n")
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"Written to {REPORT}.")

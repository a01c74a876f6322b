"""A few kills; ``make kills`` does 200."""

from __future__ import annotations

from pathlib import Path

from kills import kills


def test_commands_killed_while_they_write_lose_nothing(tmp_path: Path) -> None:
    assert list(kills(tmp_path, 6)) == []

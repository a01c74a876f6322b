"""Commands that serve: the app in the browser, and a model made ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.errors import SlicescopeError
from analysis.storage import check_folder
from app.cli.options import ModelOptions
from app.cli.progress import progress_bars
from app.cli.reading import grouped
from app.cli.terminal import out


def app_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to bind; the default serves this machine only.")] = (
        "127.0.0.1"
    ),
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    demo_mode: Annotated[
        bool, typer.Option("--demo-mode", help="For strangers: fixed models and texts, small budgets.")
    ] = False,
    allow_model: Annotated[
        list[str] | None, typer.Option(help="Offer this model and no other; repeat it for several.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that paths may reach, in place of your home and the working folder."),
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="A name under which others reach it, such as that of a proxy.")
    ] = None,
    allow_embedding: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may show it in a frame.")
    ] = None,
    job_minutes: Annotated[
        int | None,
        typer.Option(min=1, help="Stop a job that ran so long.", show_default="none; 15 with --demo-mode"),
    ] = None,
) -> None:
    """Serve the app in the browser."""
    from analysis.sources.model import ModelSource
    from app.policy import Policy

    try:
        from app.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("segno", "starlette", "streamlit"):
            raise
        raise SlicescopeError(
            f"The app needs the package {error.name}, which is not installed: "
            "run pip install 'slicescope[app]'."
        ) from error

    for folder in root or ():
        check_folder(folder)
    models = tuple(ModelSource.parse(model) for model in allow_model or ())
    policy = Policy(models=models or None, roots=tuple(root) if root else None, minutes=job_minutes)
    if demo_mode:
        policy = Policy.demo(models, job_minutes)
    serve(port, address, open_browser, policy, hosts=host or (), frames=allow_embedding or ())


@grouped
def prepare(which: ModelOptions) -> None:
    """Have a model ready: fetch it from the Hub, or convert the weights of a GGUF file (the demo's too)."""
    from analysis.sources.opening import dequantise, fetch_missing

    source = which.source()
    with progress_bars() as listen:
        fetch_missing(source, listen)
        if source.kind in ("demo", "gguf"):
            listen("Converting", 0, 1)
            dequantise(source)
            listen("Converting", 1, 1)
    out.print(f"{source.label} is ready.")

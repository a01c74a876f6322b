"""The command that writes a model in the form of another tool."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import StorageError
from analysis.storage import check_new_file, check_new_folder, runs_folder
from app.cli.progress import progress_bars
from app.cli.terminal import out
from app.cli.work import open_source

if TYPE_CHECKING:
    from analysis.sources.model import ModelSource
    from slicing.export import Dense


class Form(StrEnum):
    """The forms; the same names as in ``slicing.export``, which needs torch."""

    HF = "hf"
    DECI = "deci"
    GGUF = "gguf"
    MERGEKIT = "mergekit"


FOLDERS = (Form.HF, Form.DECI)
"""The forms that are folders."""
_KEY = re.compile(r"[0-9a-f]{4,12}")


class Numbers(StrEnum):
    """The types of numbers of all forms."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|KEY",
            help="The model: a folder, as 'compress' makes it, the key of a run that keeps one, 'demo', "
            "a Hub id with @revision where wanted, or a GGUF file.",
        ),
    ],
    to: Annotated[
        Form,
        typer.Option(
            help="hf: a folder without code of ours, for whatever opens models of its architecture. "
            "deci: a folder with a width of the MLP for every block, for vLLM. gguf: a file with widths and "
            "heads for every block, for llama.cpp. mergekit: a file that copies the blocks that are left out "
            "of the dense model."
        ),
    ],
    path: Annotated[Path, typer.Option("--out", help="The folder or file to write; it must not exist yet.")],
    dtype: Annotated[
        Numbers | None,
        typer.Option(
            help="The type of its numbers: f32, f16 or q8_0 in gguf; f32, f16 or bf16 in the others.",
            show_default="f16 in gguf, the model's own in the others",
        ),
    ] = None,
    multiple: Annotated[
        int,
        typer.Option(
            min=1,
            max=4096,
            help="Fill the widths of MLPs up with zeros to multiples of this, which changes no output: 256 "
            "for mlx-lm, and before quantising with k-quants.",
        ),
    ] = 1,
    dense: Annotated[
        str | None,
        typer.Option(
            help="The model that this one was made from, for mergekit; the run of a KEY knows it.",
            show_default="that of the run",
        ),
    ] = None,
) -> None:
    """Write a model, dense or made smaller, in a form that other tools open.

    What the form cannot say is refused: methods with the setting 'export' leave it out.
    """
    (check_new_folder if to in FOLDERS else check_new_file)(path)
    from analysis.sources.model import ModelSource
    from app import wording
    from slicing.export import find_export

    form = find_export(to)
    form.dtype(dtype)
    which, label, origin = _named(source)
    if dense is not None:
        origin = ModelSource.parse(dense, device="cpu")
    if not form.needs_dense:
        origin = None
    with progress_bars() as listen:
        model, tokenizer = open_source(which, listen)
        known = _dense(origin, listen) if origin else None
        listen("Writing", 0, 1)
        form.write(model, tokenizer, path, made_from=label, dtype=dtype, multiple=multiple, dense=known)
        listen("Writing", 1, 1)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    out.print(f"{label} as {form.title}, {wording.memory(size)}: {path}", highlight=False)
    out.print(f"Opens in {form.readers}.", style="dim", highlight=False)


def _named(text: str) -> tuple[ModelSource, str, ModelSource | None]:
    """The model of this name, what it is called, and the one it was made from where a run says so."""
    from analysis.sources.model import ModelSource
    from slicing.studies.store import MODEL_FOLDER, find_run

    if not _KEY.fullmatch(text) or Path(text).exists():
        which = ModelSource.parse(text, device="cpu")
        return which, which.label, None
    run = find_run(text)
    folder = runs_folder() / run.key / MODEL_FOLDER
    if not folder.is_dir():
        raise StorageError(
            f"The run '{run.key}' keeps no model: name one of 'compress', 'slice' or 'remove', or a folder."
        )
    made_from = run.request.model
    return ModelSource.parse(str(folder), device="cpu"), f"{made_from.label}, run {run.key}", made_from


def _dense(source: ModelSource, listen: Any) -> Dense:
    """The model that another one was made from, by the name under which mergekit finds it."""
    from analysis.sources.gguf import dequantised_folder, gguf_file
    from slicing.export import Dense

    model, _ = open_source(source.model_copy(update={"device": "cpu"}), listen)
    if source.kind == "hub":
        return Dense(source.label, model)
    folder = source.location if source.kind == "folder" else dequantised_folder(gguf_file(source))
    return Dense(str(Path(folder).resolve()), model)

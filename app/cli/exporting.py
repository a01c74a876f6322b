"""The command that writes a model in the form of another tool."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from analysis.storage import check_new_file, check_new_folder
from app.cli.terminal import open_source, out, progress_bars


class Form(StrEnum):
    """The forms; the same names as in ``slicing.export``, which needs torch."""

    DECI = "deci"
    GGUF = "gguf"


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
            metavar="MODEL",
            help="The model: a folder, as 'compress' makes it, 'demo', a Hub id with @revision where wanted, "
            "or a GGUF file.",
        ),
    ],
    to: Annotated[
        Form,
        typer.Option(
            help="deci: a folder with a width of the MLP for every block, for vLLM. gguf: a file with widths "
            "and heads for every block, for llama.cpp."
        ),
    ],
    path: Annotated[Path, typer.Option("--out", help="The folder or file to write; it must not exist yet.")],
    dtype: Annotated[
        Numbers | None,
        typer.Option(
            help="The type of its numbers: f32, f16 or q8_0 in gguf; f32, f16 or bf16 in deci.",
            show_default="f16 in gguf, the model's own in deci",
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
) -> None:
    """Write a model, dense or cut inside its blocks, in a form that other tools open.

    What the form cannot say is refused: methods with the setting 'export' leave it out.
    """
    (check_new_folder if to is Form.DECI else check_new_file)(path)
    from analysis.sources.model import ModelSource
    from app import wording
    from slicing.export import find_export

    form, which = find_export(to), ModelSource.parse(source, device="cpu")
    form.dtype(dtype)
    with progress_bars() as listen:
        model, tokenizer = open_source(which, listen)
        listen("Writing", 0, 1)
        form.write(model, tokenizer, path, made_from=which.label, dtype=dtype, multiple=multiple)
        listen("Writing", 1, 1)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    out.print(f"{which.label} as {form.title}, {wording.memory(size)}: {path}", highlight=False)
    out.print(f"Opens in {form.readers}.", style="dim", highlight=False)

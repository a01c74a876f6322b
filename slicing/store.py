"""Sliced models on disk, as a folder that transformers opens too: weights, configuration, tokenizer,
the modelling files that run them, a model card, and a manifest of our own.

A sliced folder opens as a ``ModelSource`` like any other model. Knows nothing about calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from analysis.device import is_out_of_memory, out_of_memory_told, pick_device, pick_dtype
from analysis.errors import ModelError, is_ours, one_line
from analysis.late import torch, transformers
from analysis.portable import make_portable
from analysis.shape import ModelShape
from analysis.sources.model import SLICED_MANIFEST, ModelSource, is_sliced, quiet_transformers
from analysis.sources.opening import OpenModel, open_dense
from analysis.spread import clear_with, where_to_put
from analysis.storage import require_space, storage_errors, whole_folder
from analysis.ticks import bars_told
from analysis.trust import pin, read_settings, require_own_weights, require_plain_folder
from analysis.values import Progress, Value, no_progress
from slicing.basis import BASES
from slicing.depth.layout import Layout
from slicing.depth.reduce import ReducedModel
from slicing.late import modeling_bridged, modeling_narrow, modeling_sliced
from slicing.plain import stream_scale
from slicing.repair import Repair
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from slicing.modeling_decoder import Decoder

CARD = "README.md"
LAYOUT_FILE = "slicescope-layout.json"
"""In a folder with fewer blocks than the dense model: which ones are left."""
_NEEDED = """
With torch and transformers 5.23 or later alone (the files `modeling_*.py` in this folder are run, so read
them first):
"""


Opener = Callable[[ModelSource], OpenModel]


class Manifest(Value):
    """What the folder of a sliced model says about itself, in ``slicescope.json``."""

    format: Literal[2] = 2
    made_from: str
    """Label of the dense model."""
    calibration: str
    """The text and windows the bases were found on, in words."""
    method: Literal["faithful", "preview"] = "faithful"
    """``faithful``: each basis sees the cuts before it. ``preview``: all come from the dense stream."""
    parameters: int
    schedule: SlicingSchedule
    shape: ModelShape
    discarded: tuple[float, ...]
    basis: str = "pca"
    """The rule that chose the directions: a name in ``slicing.basis.BASES``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.schedule.check_fits(self.shape)
        return self


def save_sliced(
    sliced: SlicedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    made_from: str,
    calibration: str,
    numbers: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    progress: Progress = no_progress,
) -> None:
    """Write the model as a new folder, whole or not at all (``StorageError``).

    ``numbers`` are lines of the model card: what was measured, each with its protocol; ``warnings`` stand
    above all others. One in a single basis is a checkpoint of its architecture like any other.
    """
    manifest = Manifest(
        made_from=made_from,
        calibration=calibration,
        method=sliced.method,
        parameters=sliced.schedule.shape_after(sliced.shape).parameters,
        schedule=sliced.schedule,
        shape=sliced.shape,
        discarded=sliced.discarded,
        basis=sliced.basis,
    )
    require_space(folder, manifest.parameters * sliced.model.dtype.itemsize)
    with whole_folder(folder) as draft, quiet_transformers():
        done = write_checkpoint(sliced.model, tokenizer, draft, progress)
        if sliced.plain:
            (draft / CARD).write_text(
                _plain_card(manifest, sliced.repair, numbers, warnings), encoding="utf-8"
            )
        else:
            (draft / CARD).write_text(_card(manifest, numbers, warnings), encoding="utf-8")
            (draft / SLICED_MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        done()


def save_reduced(
    reduced: ReducedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    made_from: str,
    method: str,
    dense_parameters: int,
    calibration: str,
    numbers: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    progress: Progress = no_progress,
) -> None:
    """Write a model with fewer blocks as a new folder, whole or not at all (``StorageError``).

    A plain one is a checkpoint of its architecture like any other. One with matrices in the place of blocks
    opens as a ``ModelSource`` too, and elsewhere with the modelling files that lie in the folder.
    """
    model = reduced.model
    size = sum(parameter.numel() for parameter in model.parameters())
    require_space(folder, size * model.dtype.itemsize)
    with whole_folder(folder) as draft, quiet_transformers():
        # What merging and fitting made may be a view of something larger, or shared with the dense model.
        done = write_checkpoint(model, tokenizer, draft, progress)
        card = _reduced_card(
            reduced, made_from, method, calibration, size, dense_parameters, numbers, warnings
        )
        (draft / CARD).write_text(card, encoding="utf-8")
        if reduced.layout.count:
            (draft / LAYOUT_FILE).write_text(reduced.layout.to_json(), encoding="utf-8")
        done()


def layout_at(source: ModelSource) -> Layout | None:
    """Read which blocks of the dense model are left in a folder that ``save_reduced`` wrote.

    ``None`` for a model with all its blocks, and for one that others made. Raises ``StorageError`` for an
    unreadable file.
    """
    path = Path(source.location) / LAYOUT_FILE
    if source.kind != "folder" or not path.is_file():
        return None
    with storage_errors(path):
        return Layout.from_json(path.read_bytes(), f"'{path}'")


def write_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    draft: Path,
    progress: Progress = no_progress,
) -> Callable[[], None]:
    """Write weights, configuration and tokenizer into the folder ``draft``, for other tools too.

    Where the model is of ours, so are the modelling files, with classes for ``AutoModelForCausalLM`` and
    ``AutoModel``. The steps of "Saving" are the files of weights, the tokenizer, what other versions read,
    and last the card, which the caller writes: it calls what is returned once it has.
    """
    files = 1

    def written(done: int, total: int) -> None:
        nonlocal files
        files = total
        progress("Saving", done, files + 3)

    if decoder := _decoder_of(model):
        config: Any = model.config
        said = f"{decoder.__module__.rpartition('.')[2]}.{decoder.__name__}"
        config.auto_map = {**(getattr(config, "auto_map", None) or {}), "AutoModel": said}
    with bars_told(written):
        model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    progress("Saving", files + 1, files + 3)
    make_portable(draft, tokenizer)
    progress("Saving", files + 2, files + 3)
    return lambda: progress("Saving", files + 3, files + 3)


def open_model(source: ModelSource) -> OpenModel:
    """Open any source, dense or sliced, on its device and in its dtype."""
    if not is_sliced(source):
        return open_dense(source)
    with out_of_memory_told(f"loading {source.label}"):
        sliced, tokenizer = load_sliced(source)
    return OpenModel(sliced.model, tokenizer)


def open_telling(source: ModelSource, progress: Progress, opener: Opener = open_model) -> OpenModel:
    """Open a model, and tell tensor by tensor how much of it was read."""
    read = 0

    def told(done: int, total: int) -> None:
        nonlocal read
        read = done
        progress("Opening", done, total)

    progress("Opening", 0, 1)
    with bars_told(told):
        opened = opener(source)
    if not read:  # it was open, or comes from no file
        progress("Opening", 1, 1)
    return opened


def load_sliced(source: ModelSource) -> tuple[SlicedModel, PreTrainedTokenizerBase]:
    """Read a folder that ``save_sliced`` wrote; the logits are those of the model that was saved.

    Our own classes are used, whatever code lies in the folder. Raises ``StorageError`` for an unreadable
    manifest, ``ModelError`` for weights that do not fit it.
    """
    folder = Path(source.location)
    with storage_errors(folder / SLICED_MANIFEST):
        content = (folder / SLICED_MANIFEST).read_bytes()
    manifest = Manifest.from_json(content, f"'{folder / SLICED_MANIFEST}'")
    device, schedule = pick_device(source.device), manifest.schedule
    require_plain_folder(folder, source.label)
    require_own_weights(folder, source.label)
    read_settings(folder / "config.json", source.label)
    misfit = ModelError(f"The weights in '{folder}' do not fit its {SLICED_MANIFEST}: save the model again.")
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            config: Any = pin(modeling_sliced.SlicedConfig.from_pretrained(folder, local_files_only=True))
            said = tuple(config.widths), config.embedding, config.span
            meant = schedule.widths, schedule.embedding, schedule.span
            if said != meant or config.text_config.num_hidden_layers != manifest.shape.block_count:
                raise misfit
            dtype = pick_dtype(source.dtype, device, config.dtype)
            with torch.device("meta"):
                skeleton = modeling_sliced.SlicedForCausalLM(config)
            placing = where_to_put(source.label, source.device, skeleton, dtype)
            loaded: Any = modeling_sliced.SlicedForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                **placing,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported instead, and refused below
                local_files_only=True,
            )
            model, report = loaded
    except Exception as error:  # safetensors and tokenizers raise classes of their own
        if error is misfit or is_ours(error) or is_out_of_memory(error):
            raise
        raise ModelError(f"The sliced model '{folder}' cannot be read: {one_line(error)}.") from error
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise misfit
    clear_with(model, placing)
    model = model.eval().requires_grad_(False)
    sliced = SlicedModel(
        model, schedule, manifest.shape, manifest.discarded, manifest.method, basis=manifest.basis
    )
    return sliced, tokenizer


def _card(manifest: Manifest, numbers: tuple[str, ...], warnings: tuple[str, ...]) -> str:
    """The model card: recipe, numbers, protocol, and how to open the model."""
    schedule, shape = manifest.schedule, manifest.shape
    share = 1.0 - manifest.parameters / shape.parameters
    found = {
        "faithful": "each found on the part of the model that was sliced already",
        "preview": "all found on the dense model (a preview: the faithful method costs less perplexity)",
    }
    return f"""---
library_name: transformers
tags: [slicescope, slicegpt, pruned]
---

# {manifest.made_from}, sliced

{_warned(warnings)}\
The residual stream of {manifest.made_from} cut to a width of its own for every block: SliceGPT
(arXiv 2401.15024) with the widths chosen per block (Dumitru et al., arXiv 2411.03513), made with slicescope.

## Recipe

- One basis for every {f"{schedule.span} blocks" if schedule.span else "sub-layer"}.
- Mean slice {schedule.mean_slice:.1%} of {shape.hidden_size:,}; widths of the stream entering each block,
  then the head: {", ".join(map(str, schedule.widths))}.
- Bases: {found[manifest.method]}, by {_rule(manifest)}, on {manifest.calibration}.
- Embedding: {schedule.embedding}.

## Numbers

- {manifest.parameters:,} parameters, {abs(share):.1%} {"fewer" if share >= 0 else "more"} than the dense
  {shape.parameters:,}; rotations that slicing adds are counted.
- Energy of the stream cut away: {max(manifest.discarded):.2%} at the worst place.
{_measured(numbers)}

## Use
{_NEEDED}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=False)
```

With slicescope, which brings the same files: `import slicing` and leave `trust_remote_code` out, or
`model, tokenizer = slicing.load("PATH")`.
"""


def _title(reduced: ReducedModel) -> str:
    blocks = f"{len(reduced.layout.groups)} of {reduced.layout.blocks} blocks"
    if not reduced.inner:
        return blocks
    return f"{blocks}, cut inside" if reduced.layout.count else "cut inside its blocks"


def _rule(manifest: Manifest) -> str:
    """The rule that chose the directions, within a sentence."""
    known = BASES.get(manifest.basis)
    title = known.title if known else manifest.basis
    return title[0].lower() + title[1:]


def _plain_card(
    manifest: Manifest, repair: Repair | None, numbers: tuple[str, ...], warnings: tuple[str, ...]
) -> str:
    """The model card of a plain model in one basis."""
    schedule, shape = manifest.schedule, manifest.shape
    share = 1.0 - manifest.parameters / shape.parameters
    width = schedule.widths[0]
    tables = repaired = ""
    if repair and repair.kept:
        repaired = (
            f"\n- All output projections were fitted to it: loss on {repair.windows} windows held out "
            f"{repair.repaired:.3f}, without {repair.unrepaired:.3f} nats per token."
        )
    if shape.tied:
        tables = (
            f"\n- The embedding and the head of {manifest.made_from} are one table. Here they are two, which "
            f"costs {shape.vocab_size * width:,} parameters."
        )
    return f"""---
library_name: transformers
tags: [slicescope, slicegpt, pruned]
---

# {manifest.made_from}, {width:,} of {shape.hidden_size:,} dimensions

{_warned(warnings)}\
{manifest.made_from} with its residual stream cut in one basis for all blocks and the head: SliceGPT
(arXiv 2401.15024) without matrices between blocks, made with slicescope. It is a checkpoint of its
architecture like any other, with a smaller hidden size.

## Recipe

- Hidden size {width:,}, of {shape.hidden_size:,}: a mean slice of {schedule.mean_slice:.1%}.
- The basis was found on the dense model, every token alike, by {_rule(manifest)}, on
  {manifest.calibration}.{repaired}
- The stream is stored {stream_scale(width, shape.hidden_size):.6f} times as large, so that a norm of the new
  width divides as the dense one did. The norms' own gains are part of the maps behind them.{tables}

## Numbers

- {manifest.parameters:,} parameters, {abs(share):.1%} {"fewer" if share >= 0 else "more"} than the dense
  {shape.parameters:,}.
- Energy of the stream cut away: {max(manifest.discarded):.2%} at the worst place.
{_measured(numbers)}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
"""


def _measured(numbers: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in numbers) or "- No perplexity was measured for this folder."


def _warned(warnings: tuple[str, ...]) -> str:
    return "".join(f"> **Warning:** {each}\n\n" for each in warnings)


def _reduced_card(
    reduced: ReducedModel,
    made_from: str,
    method: str,
    calibration: str,
    parameters: int,
    dense_parameters: int,
    numbers: tuple[str, ...],
    warnings: tuple[str, ...],
) -> str:
    """The model card: which blocks are gone, the repair, numbers, and how to open the model."""
    layout, repair = reduced.layout, reduced.repair
    repaired = "Nothing repairs the cuts."
    if repair and repair.kept:
        trained = any(row.ridge == 0.0 for row in repair.sublayers)
        how = "by training the blocks in front" if trained else "in closed form"
        repaired = (
            f"The cuts are repaired {how}, calibrated on {calibration}: loss on {repair.windows} windows "
            f"held out {repair.repaired:.3f}, without {repair.unrepaired:.3f} nats per token."
        )
    what = "What is left is as it was, but for the repair."
    if reduced.inner:
        what = f"Inside the blocks: {reduced.inner.label}."
    if any(len(group) > 1 for group in layout.groups):
        what = f"Neighbouring blocks became one by the rule '{layout.merge}'."
    share = 1 - parameters / dense_parameters
    code, none = ("", "") if reduced.plain else (", trust_remote_code=True", ", trust_remote_code=False")
    needed = "" if reduced.plain else _NEEDED
    return f"""---
library_name: transformers
tags: [slicescope, {"structured-pruning" if reduced.inner else "layer-pruning"}, pruned]
---

# {made_from}, {_title(reduced)}

{_warned(warnings)}\
{made_from} {layout.label}{", cut inside its blocks" if reduced.inner else ""}, made with slicescope.

## Recipe

- Blocks are numbered from 0, those of {made_from}; chosen by: {method}, calibrated on {calibration}.
- {what}
- {repaired}

## Numbers

- {parameters:,} parameters, {share:.1%} fewer than the dense {dense_parameters:,}.
{_measured(numbers)}

## Use
{needed}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH"{code})
tokenizer = AutoTokenizer.from_pretrained("PATH"{none})
```
"""


def _decoder_of(model: Any) -> type[Decoder] | None:
    """What ``AutoModel`` opens of a folder with our modelling files, or ``None`` for a model of others."""
    ours = (
        modeling_sliced.SlicedDecoder,
        modeling_bridged.BridgedDecoder,
        modeling_narrow.NarrowDecoder,
    )
    return next((each for each in ours if each.causal is type(model)), None)

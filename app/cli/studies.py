"""Commands that judge smaller models beside each other: compare, and studies of every kind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from app.cli.amount import AmountOptions
from app.cli.contract import comparison_json
from app.cli.methods import MethodsOption
from app.cli.options import (
    Alike,
    CalibrationOptions,
    DrawOptions,
    EvaluationOptions,
    ExecutorOptions,
    FormOptions,
    Int8Option,
    JitterOption,
    JsonOption,
    LensOption,
    ModelOptions,
    OneShotOption,
    OtherOption,
    RecipesOption,
    RepairOptions,
    SeedsOption,
    SharingOptions,
    SlicingOptions,
    SpeedOption,
    TaskOptions,
    second_text,
)
from app.cli.reading import grouped, numbers, whole_numbers
from app.cli.showing import print_run
from app.cli.terminal import plain, printed_as_json, tell_where
from app.cli.work import carry_out

if TYPE_CHECKING:
    from slicing.plans import Plan
    from slicing.studies.recipe import Recipe
    from slicing.studies.study import Study


@grouped
def compare(
    which: ModelOptions,
    amount: AmountOptions,
    cut: SharingOptions,
    calibrate: DrawOptions,
    how: SlicingOptions,
    judge: EvaluationOptions,
    asked: TaskOptions,
    prompt: Annotated[str | None, typer.Option(help="The prompt of the sample text.")] = None,
    new_tokens: Annotated[int, typer.Option(min=0, help="Its length in tokens; 0 for none.")] = 40,
    lens: LensOption = False,
    speed_rounds: SpeedOption = 5,
    jitter: JitterOption = 0,
    json_path: JsonOption = None,
) -> None:
    """Evaluate the dense model, constant slicing and the plan, paired on the same windows; keep the run."""
    from slicing.studies.requests import PROMPT
    from slicing.studies.study import comparison

    plan, fewer = amount.plan(cut, which.device), amount.share()
    asked_for: dict[str, Any] = {
        **how.fields(),
        "model": which.source(),
        **calibrate.fields(),
        **judge.fields(),
        **asked.fields(),
        "prompt": prompt or PROMPT,
        "new_tokens": new_tokens,
        "lens": lens,
        "speed_rounds": speed_rounds,
        "jitter": jitter,
    }
    study = comparison(plan, **asked_for)
    if fewer is not None:
        plan = _with_fewer(fewer, plan, study)
        study = comparison(plan, **asked_for)
    run = carry_out(study)
    if not printed_as_json(comparison_json(run, plan, cut.settings(amount.base)), json_path):
        print_run(run)
        tell_where(run)


def _with_fewer(fewer: float, plan: Plan, study: Study) -> Plan:
    """Give a plan the target that reaches a size, by a profile of the windows that the study profiles.

    Raises ``UnsupportedError`` for a model that cannot be sliced.
    """
    from analysis.errors import UnsupportedError
    from slicing.probes import PROBES
    from slicing.studies.requests import ProfileRequest
    from slicing.studies.store import find_stored

    windows, drawn, seed = study.profile_draw
    request = ProfileRequest(
        model=study.model,
        text=study.profile_text,
        windows=windows,
        drawn=drawn,
        window_length=study.window_length,
        seed=seed,
        probes=(plan.score,) if plan.score in PROBES else (),
    )
    result: Any = (find_stored(request) or carry_out(request)).result
    if result.shape is None:
        raise UnsupportedError(result.not_sliceable)
    redundancy = result.profile.redundancy(plan.score, plan.first_token)
    return plan.with_fewer(fewer, redundancy, result.shape)


class _CommandOrFile(TyperGroup):
    """A group of commands where a word that is none of them names a file, which the hidden one is given."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or take the word as a file."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            _refuse_unless_found(args[0], [name for name in self.commands if name != _FILE])
            args = [_FILE, *args]
        return super().resolve_command(ctx, args)


_FILE = "file"
study_app = typer.Typer(cls=_CommandOrFile, no_args_is_help=True, subcommand_metavar="COMMAND or FILE.toml")


def _refuse_unless_found(word: str, commands: list[str]) -> None:
    """Raise ``PlanError`` for what is neither a command nor, by its looks, a file."""
    from analysis.errors import PlanError, unknown_name
    from slicing.studies.files import ready_studies

    names = [*commands, *ready_studies()]
    looks_like_file = "." in word or "/" in word or word in ready_studies()
    with suppress(OSError, ValueError):  # too long, a zero byte
        looks_like_file = looks_like_file or Path(word).is_file()
    if not looks_like_file:
        raise PlanError(f"{unknown_name('study', word, names)} A file's name ends in '.toml'.")


@study_app.callback()
def study_command(methods: MethodsOption = False) -> None:
    """Judge many recipes alike: a sweep, a contest, a leaderboard, or what a study file says.

    A file is one in TOML, or one that ships with slicescope: quick.toml, map.toml, ranking.toml,
    families.toml, removal.toml, widths.toml.
    """


@study_app.command(name=_FILE, hidden=True)
@grouped
def file_command(
    file: Annotated[Path, typer.Argument(help="A study file in TOML, or the name of a ready one.")],
    where: ExecutorOptions,
    json_path: JsonOption = None,
) -> None:
    """Carry out the study that a file describes; trials that are stored are not run again."""
    from slicing.studies.files import find_study, read_study

    _carry_out(read_study(find_study(str(file))), where, json_path)


@study_app.command(name="sweep")
@grouped
def sweep_command(
    which: ModelOptions,
    cut: SharingOptions,
    calibrate: DrawOptions,
    repair: RepairOptions,
    judge: EvaluationOptions,
    where: ExecutorOptions,
    base: Annotated[str, typer.Option(help="SB of the columns, with commas.")] = "0,.1,.2",
    target: Annotated[str, typer.Option(help="SP of the rows, with commas.")] = ".15,.25,.35",
    one_shot: OneShotOption = False,
    jitter: JitterOption = 0,
    json_path: JsonOption = None,
) -> None:
    """Try bases by targets beside constant slicing, as a map; trials that are stored are not run again."""
    from slicing.studies.study import sweep

    study = sweep(
        cut.plan(which.device),
        numbers("bases", base),
        numbers("targets", target),
        one_shot=one_shot,
        repair=repair.name,
        model=which.source(),
        **calibrate.fields(),
        **judge.fields(),
        jitter=jitter,
    )
    _carry_out(study, where, json_path)


@study_app.command(name="contest")
@grouped
def contest_command(
    which: ModelOptions,
    calibrate: CalibrationOptions,
    judge: EvaluationOptions,
    form: FormOptions,
    where: ExecutorOptions,
    target: Annotated[
        float, typer.Option(help="SP of constant slicing, whose size all others are brought to.")
    ] = 0.25,
    recipes: RecipesOption = "",
    seeds: SeedsOption = "0,1,2",
    equal: Annotated[
        Alike, typer.Option(help="What all have alike: parameters, or the mean slice.")
    ] = Alike.PARAMETERS,
    other: OtherOption = None,
    int8: Int8Option = False,
    jitter: JitterOption = 0,
    json_path: JsonOption = None,
) -> None:
    """Set ways to decide where to cut against each other at equal size; stored trials are not run again."""
    from slicing.studies.study import USUAL, contest

    study = contest(
        form.given_to(_recipes(recipes, USUAL), which.device, bool(recipes)),
        target,
        equal=equal.value,
        seeds=whole_numbers("seeds", seeds),
        model=which.source(),
        **calibrate.fields(),
        **(judged := judge.fields()),
        other=second_text(other, judged["evaluation"]),
        int8=int8,
        jitter=jitter,
    )
    _carry_out(study, where, json_path)


@study_app.command(name="leaderboard")
@grouped
def leaderboard_command(
    which: ModelOptions,
    calibrate: CalibrationOptions,
    judge: EvaluationOptions,
    asked: TaskOptions,
    form: FormOptions,
    where: ExecutorOptions,
    sizes: Annotated[
        str, typer.Option(help="The shares of the parameters that go, with commas; each to a whole block.")
    ] = "0.1,0.2,0.3",
    recipes: RecipesOption = "",
    seeds: SeedsOption = "0",
    other: OtherOption = None,
    speed_rounds: SpeedOption = 0,
    int8: Int8Option = False,
    jitter: JitterOption = 0,
    json_path: JsonOption = None,
) -> None:
    """Slicing beside removing whole blocks, at several sizes and equal at each; stored trials are kept."""
    from slicing.studies.study import BOARD, leaderboard

    study = leaderboard(
        form.given_to(_recipes(recipes, BOARD), which.device, bool(recipes)),
        numbers("sizes", sizes),
        seeds=whole_numbers("seeds", seeds),
        model=which.source(),
        **calibrate.fields(),
        **(judged := judge.fields()),
        **asked.fields(),
        other=second_text(other, judged["evaluation"]),
        speed_rounds=speed_rounds,
        int8=int8,
        jitter=jitter,
    )
    _carry_out(study, where, json_path)


def _recipes(lines: str, usual: tuple[str, ...]) -> tuple[Recipe, ...]:
    """The recipes of lines with ';' between them, or the usual ones."""
    from analysis.errors import PlanError
    from slicing.studies.recipe import Recipe

    said = lines.split(";") if lines else usual
    if not all(line.strip() for line in said):
        raise PlanError(
            f"The recipes '{lines}' have an empty one among them: write lines such as 'slice(constant)' with "
            "';' between them."
        )
    return tuple(map(Recipe.parse, said))


def _carry_out(study: Study, where: ExecutorOptions, json_path: Path | None) -> None:
    run = carry_out(study, where.made())
    if not printed_as_json(plain(run), json_path):
        print_run(run)
        tell_where(run)

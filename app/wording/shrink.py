"""What came of a wish, in sentences: what to take, what it costs, what else is near, and what was tried."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.evaluate import Difference, Perplexity, corrected, difference, perplexity_of
from app.wording.numbers import counted, draws, duration, fewer, joined, memory, parameters, percent, times
from app.wording.results import evidence
from app.wording.studies import quoted
from slicing.studies.options import Option
from slicing.studies.requests import ShrinkRequest
from slicing.studies.results import Measurement, ShrinkResult
from slicing.wish import Wish

TRIED_READING = (
    "Loss is in nats per token on search windows, which choose; each rung is judged on other ones, so that "
    "losses compare within a rung. The evaluation texts are for the finalists alone."
)
"""How to read what was tried."""


def differences(first: Measurement, then: Measurement) -> tuple[Difference, ...]:
    """How much more the second loses than the first on each text that both were judged on, corrected."""
    return corrected(_apart(first, then))


def _apart(first: Measurement, then: Measurement) -> list[Difference]:
    """Compare two models on every text, without correction for several comparisons."""
    found = [difference(first.title, first.evaluation, then.title, then.evaluation)]
    if first.other and then.other:
        found.append(difference(first.title, first.other, then.title, then.other))
    return found


def beside_dense(result: ShrinkResult) -> list[tuple[str, Difference]]:
    """Say what the winner costs against dense, on each text with its name."""
    return list(zip(_texts(result), differences(result.dense, result.measurement), strict=False))


def beside_winner(result: ShrinkResult) -> list[tuple[str, Difference]]:
    """How much more the runner-up loses than the winner, on each text; empty where there is none."""
    if len(result.finalists) < 2:
        return []
    other = result.finalists[1].measurement
    return list(zip(_texts(result), differences(result.measurement, other), strict=False))


def _texts(result: ShrinkResult) -> tuple[str, str]:
    return result.evaluation.label, "the second text"


def shrunk(request: ShrinkRequest, result: ShrinkResult) -> list[str]:
    """Answer a wish: the answer first, then its evidence, a sentence each."""
    told = [
        answer(result, request.wish.fewer),
        *_evidence(result),
        *_runner_up(result),
        *_hoped(request, result),
    ]
    return [*told, opened(result.plain), *_speed(result), _tried(request, result)]


def answer(result: ShrinkResult, asked: float | None = None) -> str:
    """Say what to take and what it costs; ``asked``: the share of the parameters that was to go."""
    winner, dense = result.measurement, result.dense
    gone = 1.0 - winner.parameters / dense.parameters
    told = (
        f"Take {quoted(result.winner.recipe)}: {fewer(gone, asked)} "
        f"({parameters(winner.parameters)} of {parameters(dense.parameters)}, {memory(winner.bytes)}) and "
        f"{percent(1.0 - winner.flops_per_token / dense.flops_per_token)} fewer FLOPs, at perplexity "
        f"{_beside(winner.evaluation, dense.evaluation, draws(1))}"
    )
    if winner.other and dense.other:
        told += f", and {_beside(winner.other, dense.other)} on the second text"
    return f"{told}."


def _beside(found: Perplexity, dense: Perplexity, of: str = "") -> str:
    """A perplexity and the dense model's; ``of``: of how many draws it is."""
    told = f"{found.perplexity:.2f}" + (f" ({of})" if of else "")
    return f"{told}, {_times(found, dense):.2f} times the dense model's {dense.perplexity:.2f}"


def _times(found: Perplexity, dense: Perplexity) -> float:
    return perplexity_of(sum(found.nll) / len(found.nll) - sum(dense.nll) / len(dense.nll))


def _evidence(result: ShrinkResult) -> list[str]:
    return [f"Against dense on {text}: {evidence(each)}." for text, each in beside_dense(result)]


def _runner_up(result: ShrinkResult) -> list[str]:
    """Say who is next, and whether that is clear."""
    pairs = beside_winner(result)
    if not pairs:
        return ["Nothing else came so far: for a second one, give more minutes."]
    recipe = quoted(result.finalists[1].recipe)
    verdicts = {each.verdict for _, each in pairs}
    if verdicts == {"worse"}:
        told = f"{recipe} is clearly worse"
    elif verdicts == {"better"}:
        told = (
            f"{recipe} is clearly better here, but the search windows, which choose, preferred the other: "
            "take it too"
        )
    elif "too few windows to tell" in verdicts:
        told = f"Whether {recipe} is as good cannot be told from fewer than 8 windows"
    elif verdicts == {"no clear difference"}:
        told = f"There is no clear difference between it and {recipe}"
    else:
        told = f"{recipe} is {joined([f'{_JUDGED[each.verdict]} on {text}' for text, each in pairs])}"
    return [f"{told}. On {text}: {evidence(each)}." for text, each in pairs[:1]] + [
        f"On {text}: {evidence(each)}." for text, each in pairs[1:]
    ]


_JUDGED = {
    "worse": "clearly worse",
    "better": "clearly better",
    "no clear difference": "not clearly different",
}
"""A verdict on one text, where the other text has another one."""


def _hoped(request: ShrinkRequest, result: ShrinkResult) -> list[str]:
    """Say whether the quality that was hoped for is there, on every text."""
    wanted = request.wish.quality
    if wanted is None:
        return []
    found = [_times(result.measurement.evaluation, result.dense.evaluation)]
    if result.measurement.other and result.dense.other:
        found.append(_times(result.measurement.other, result.dense.other))
    if max(found) <= wanted:
        return [f"That is within the {wanted:g} times that were hoped for, on every text."]
    return [f"The {wanted:g} times that were hoped for are not reached: let less go, or give more minutes."]


def opened(plain: bool) -> str:
    """Say who opens a model; ``plain`` is an ordinary checkpoint of its architecture."""
    if plain:
        return "Every tool opens it as a model of its architecture."
    return (
        "transformers 5.23 or later opens it with 'trust_remote_code=True', by the modelling files in the "
        "folder; other tools do not."
    )


def _speed(result: ShrinkResult) -> list[str]:
    if (timed := result.measurement.speed) is None:
        return []
    prompt, generation = times(timed, "prompt"), times(timed, "generation")
    return [f"Speed beside dense: for a prompt {prompt}; for generation {generation}."]


def _tried(request: ShrinkRequest, result: ShrinkResult) -> str:
    """Say what was tried, what there was no time for, and how long it took."""
    names = {1: "preview", 2: "full form", 3: "finalist"}
    ran = [each for each in result.tried if each.seconds is not None]
    parts = [
        counted(count, name)
        for rung, name in names.items()
        if (count := sum(each.rung == rung for each in ran))
    ]
    late = sum(each.expected is not None and each.seconds is None for each in result.tried)
    told = f"{joined(parts)} were tried, in {duration(sum(each.seconds or 0 for each in ran))} of trials"
    told += f"; {duration(60 * request.wish.minutes)} were wished for"
    return f"{told}, and for {counted(late, 'trial')} there was no time." if late else f"{told}."


def known(options: Sequence[Option], wish: Wish) -> str:
    """Say in one sentence what is best of the known ``options``, best first, and what is as good."""
    best = options[0]
    gone = 1.0 - best.measured.parameters / best.dense.parameters
    apart = wish.fewer is not None and abs(wish.fewer - gone) >= 0.0005
    size = f"{wish.line} (nearest {percent(gone)})" if apart else wish.line
    told = (
        f"Best so far for {size}: {quoted(best.recipe)}, perplexity "
        f"{_beside(best.measured.evaluation, best.dense.evaluation, draws(best.draws))}"
    )
    if best.other_times is not None:
        told += f", and {best.other_times:.2f} times on the second text"
    return f"{told}; {_near(options)}."


def _near(options: Sequence[Option]) -> str:
    """Say what is not clearly worse than the first, of all others on all texts, corrected together (Holm)."""
    best, *others = options
    if not others:
        return "nothing else is known"
    pairs = [(each, _apart(best.measured, each.measured)) for each in others]
    verdicts = iter(corrected([each for _, found in pairs for each in found]))
    near = [each for each, found in pairs if {next(verdicts).verdict for _ in found} != {"worse"}]
    if not near:
        return "all others that are known are clearly worse"
    named = [quoted(each.recipe) for each in near[:2]]
    more = [f"{len(near) - 2} more"] if len(near) > 2 else []
    return f"no clear difference from {joined([*named, *more])}"

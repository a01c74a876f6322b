"""What a report begins with, on one screen: the verdict, its cost, the sizes, and what the models write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from app import wording
from app.figures.base import Drawing
from app.figures.compare import draw_differences
from app.figures.profile import draw_profile
from app.figures.study import draw_map
from app.other_way import best_other_way
from app.planned import plan_asked
from slicing.plans import Plan
from slicing.studies.results import Measurement, Run
from slicing.studies.study import Study
from slicing.studies.verdicts import Board, Comparison, Standing, read_board, read_comparison, read_map

MaySee = Callable[[str], bool]
"""Whether whoever reads the report may be told of the stored run with a key."""
LONGEST = 260
"""Characters of a sample on the first screen; the whole of it stands below."""


class Card(NamedTuple):
    """One number, with its change against the dense model where it has one."""

    label: str
    value: str
    change: str = ""
    note: str = ""


class Summary(NamedTuple):
    """The first screen of a report."""

    verdict: str
    """In large type: what it costs against the dense model, where that is known."""
    said: tuple[str, ...] = ()
    """Below it, a sentence each."""
    cards: tuple[Card, ...] = ()
    drawing: Drawing | None = None
    samples: tuple[tuple[str, str], ...] = ()
    """Names of models, and how they continue the prompt."""
    prompt: str = ""
    evidence: tuple[tuple[str, str, str], ...] = ()
    """Under which condition, the verdict, and from what that is known."""
    notes: tuple[str, ...] = ()


def compared(run: Run) -> Comparison | None:
    """The run as a comparison from near, where it is looked at so."""
    request, result = run.request, run.result
    if request.kind == "study" and result.kind == "study" and request.view == "comparison":
        return read_comparison(request, result)
    return None


def summary(run: Run, may_see: MaySee) -> Summary:
    """Sum a run up."""
    if found := compared(run):
        return _of_comparison(run, found, may_see)
    return KINDS[run.request.kind](run)


def _of_comparison(run: Run, found: Comparison, may_see: MaySee) -> Summary:
    dense, planned = found.measured["dense"], found.measured[found.planned]
    alone = found.planned == "constant"
    said = () if alone else (wording.without_colours(wording.verdict(found)),)
    pairs = wording.deciding(found)
    best = best_other_way(run, found, may_see)
    known = f" From run {best.key}." if best else ""
    noise = wording.noise_reading(found.study)
    protocol = f"{found.result.evaluation.label}: {dense.evaluation.protocol}."
    return Summary(
        wording.cost(found),
        said,
        _sizes(planned, dense),
        draw_differences(pairs),
        _samples(found.measured.values(), {"dense", found.planned}),
        found.study.prompt,
        tuple((how.capitalize(), each.verdict, wording.evidence(each)) for how, each in pairs),
        (wording.other_way(found, best) + known, noise, protocol, *_reading(run)),
    )


def _reading(run: Run) -> tuple[str, str, str]:
    """How a run was calibrated, how it found its bases, and from how many documents its windows are."""
    evaluation = getattr(run.result, "evaluation", None)
    windows = "" if evaluation is None else wording.window_reading(evaluation)
    calibrated = wording.precision_reading(run.request)
    return calibrated, wording.sequential_or_one_shot(run.request), windows


def _sizes(
    made: Measurement, dense: Measurement | None, standing: Standing | None = None
) -> tuple[Card, ...]:
    """The sizes of a model and how well it predicts, beside the dense one where that was judged too.

    ``standing``: over all draws, where there may be several.
    """

    def change(now: float, before: float) -> str:
        return (
            ""
            if dense is None or dense is made
            else f"{wording.percent(now / before - 1.0, signed=True)} vs dense"
        )

    base = dense or made
    perplexity, before = made.evaluation.perplexity, base.evaluation.perplexity
    drawn, note = 1, f"95\N{NO-BREAK SPACE}% interval {wording.interval(made.evaluation.interval)}"
    if standing and (drawn := len(standing.runs)) > 1:
        perplexity, note = standing.perplexity, ""
    cards = [
        Card(
            "Perplexity",
            f"{perplexity:.2f}",
            change(perplexity, before),
            ", ".join(filter(None, ("" if made.name == "dense" else wording.draws(drawn), note))),
        ),
        Card("Parameters", wording.parameters(made.parameters), change(made.parameters, base.parameters)),
        Card("Weights", wording.memory(made.bytes), change(made.bytes, base.bytes)),
        Card(
            "Work for one token",
            wording.flops(made.flops_per_token),
            change(made.flops_per_token, base.flops_per_token),
        ),
    ]
    if made.speed:
        told = f"generation {wording.times(made.speed, 'generation')}"
        cards.append(Card("Prompt, times as fast", wording.times(made.speed, "prompt"), note=told))
    return tuple(cards)


def _samples(measured: Any, names: set[str] | None = None) -> tuple[tuple[str, str], ...]:
    found = [each for each in measured if each.sample and (names is None or each.name in names)]
    return tuple((each.title, _short(each.sample.text.strip())) for each in found)


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rsplit(' ', 1)[0]} …"


def _of_study(run: Run) -> Summary:
    study, result = run.request, run.result
    assert study.kind == "study" and result.kind == "study"
    board = read_board(study, result)
    way = _reading(run)
    best = [(table, winner) for table in board.tables if (winner := table.best_of())]
    dense = [board.dense] if board.dense else []
    samples = _samples([*dense, *(winner.runs[0] for _, winner in best)])
    said = tuple(_told(board))
    if len(best) == 1:
        verdict, cards = (
            _cost(dense, [best[0][1]], study),
            _sizes(best[0][1].runs[0], board.dense, best[0][1]),
        )
    else:
        verdict = _cost(dense, [winner for _, winner in best], study)
        cards = tuple(
            Card(
                wording.budgets_line((table.budget,)),
                f"{winner.perplexity:.2f}",
                _beside(winner.perplexity, board.dense),
                f"{wording.draws(len(winner.runs))}: {winner.recipe.title}",
            )
            for table, winner in best
        )
    return Summary(verdict, said, cards, samples=samples, prompt=study.prompt, notes=way)


def _cost(dense: Sequence[Measurement], best: Sequence[Standing], study: Study) -> str:
    """Say what the best model at each size costs against the dense one, as far as these ran."""
    if not dense or not best:
        return "Too little has run to tell who loses least."
    if len(best) == 1:
        (only,) = best
        return wording.cost_against(dense[0], only.parameters, only.perplexity, len(only.runs))
    counts = {len(each.runs) for each in best}
    if len(counts) == 1 and (count := counts.pop()) > 1:  # said once
        reached = ", ".join(f"{each.perplexity:.2f}" for each in best) + f" (means of {count} draws)"
    else:
        reached = ", ".join(f"{each.perplexity:.2f} ({wording.draws(len(each.runs))})" for each in best)
    before, sizes = dense[0].evaluation.perplexity, wording.budgets_line(study.budgets)
    return f"{before:.2f} → {reached}: least perplexity at {sizes}."


def _beside(perplexity: float, dense: Measurement | None) -> str:
    return "" if dense is None else f"{perplexity / dense.evaluation.perplexity:.2f} × dense"


def _told(board: Board) -> Iterator[str]:
    """The answer of a study that is looked at as a map or a ranking; at several sizes there are many."""
    if board.study.view == "map" and (found := read_map(board)):
        yield draw_map(found, board).takeaway
    elif len(board.tables) == 1:
        yield wording.ranking(board.tables[0])[0]


def _of_shrink(run: Run) -> Summary:
    result = run.result
    assert result.kind == "shrink"
    pairs = [(f"against dense, {text}", each) for text, each in wording.beside_dense(result)]
    return Summary(
        wording.cost_against(
            result.dense, result.measurement.parameters, result.measurement.evaluation.perplexity
        ),
        (wording.answer(result, wish.fewer if (wish := getattr(run.request, "wish", None)) else None),),
        _sizes(result.measurement, result.dense),
        draw_differences(pairs) if pairs else None,
        _samples([result.dense, result.measurement]),
        getattr(run.request, "prompt", ""),
        tuple((how.capitalize(), each.verdict, wording.evidence(each)) for how, each in pairs),
        _reading(run),
    )


def _of_trial(run: Run) -> Summary:
    result = run.result
    assert result.kind == "trial" and run.request.kind == "trial"
    made = result.measurement
    drawn = f" ({wording.draws(1)})" if run.request.recipe.steps else ""
    told = f"{made.title}: perplexity {made.evaluation.perplexity:.2f}{drawn} on {result.evaluation.label}."
    way = _reading(run)
    return Summary(
        told, cards=_sizes(made, None), samples=_samples([made]), prompt=run.request.prompt, notes=way
    )


def _of_compress(run: Run) -> Summary:
    result = run.result
    assert result.kind == "compress" and run.request.kind == "compress"
    budget = run.request.budget
    asked = budget.amount if budget.measure == "parameters" else None
    gone = wording.fewer(1.0 - result.parameters / result.dense_parameters, asked)
    left = wording.parameters(result.parameters)
    told = f"{run.request.recipe.title}: {left} parameters are left, {gone}."
    grown = wording.percent(result.parameters / result.dense_parameters - 1.0, signed=True)
    cards = [Card("Parameters", wording.parameters(result.parameters), f"{grown} vs dense")]
    if result.smaller and result.dense:
        times = result.smaller.perplexity / result.dense.perplexity - 1.0
        said = f"{wording.percent(times, signed=True)} vs dense"
        cards.insert(0, Card("Perplexity", f"{result.smaller.perplexity:.2f}", said))
    if result.layout:
        cards.append(Card("Blocks", str(len(result.layout.groups)), note=result.layout.label))
    cards.append(Card("Made in", wording.duration(result.seconds)))
    way = (wording.opened(result.plain), *_reading(run)[:2])
    return Summary(told, cards=tuple(cards), notes=way)


def _of_profile(run: Run) -> Summary:
    profile, plan = run.result.profile, plan_asked(run.request) or Plan()
    drawing = draw_profile(profile, profile.held(plan.score), plan.first_token)
    cards = [Card("Blocks", str(profile.blocks))]
    if shape := getattr(run.result, "shape", None):
        cards += [
            Card("Parameters", wording.parameters(shape.parameters)),
            Card("Width of the stream", str(shape.hidden_size)),
        ]
    text = getattr(run.result, "text", None)
    if text is not None:
        cards.append(Card("Measured on", f"{text.windows} × {text.window_length} tokens", note=text.label))
    notes: Sequence[str] = (getattr(run.result, "not_sliceable", None) or "",)
    return Summary(drawing.takeaway, cards=tuple(cards), notes=tuple(notes))


def _of_search(run: Run) -> Summary:
    result = run.result
    assert result.kind == "search"
    mean = wording.percent(result.schedule.mean_slice)
    judged = wording.counted(result.evaluations, "model")
    told = f"Shares were searched, with {judged} judged: they cut {mean} of the width on average."
    return Summary(told, notes=_reading(run)[:2])


KINDS: dict[str, Callable[[Run], Summary]] = {
    "profile": _of_profile,
    "search": _of_search,
    "compress": _of_compress,
    "trial": _of_trial,
    "study": _of_study,
    "shrink": _of_shrink,
}
"""How a run is summed up, by its kind."""

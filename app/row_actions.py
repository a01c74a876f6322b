"""What can be done with one row of a study or a comparison: keep its model, repeat it, read its text."""

from __future__ import annotations

import streamlit as st

from analysis.errors import SlicescopeError, visible
from app import parts, repeat, state, wording
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial
from slicing.studies.results import Measurement, Run
from slicing.studies.store import find_stored
from slicing.studies.study import Study
from slicing.studies.verdicts import Standing

TOKENS = 40
"""Tokens that a model writes when it is asked for here."""


def of_standing(study: Study, recipe: Recipe, budget: Budget, standing: Standing) -> None:
    """Offer the ways on from a recipe at a budget of a study, for one of the seeds that it ran with."""
    seeds = study.seeds_of(recipe)[: len(standing.runs)]
    seed = seeds[0]
    if len(seeds) > 1:
        seed = st.segmented_control(
            "Seed of the calibration", seeds, default=seeds[0], required=True, key="row-seed"
        )
    if trial := study.trial(recipe, budget, seed):
        offer(trial, standing.runs[seeds.index(seed)])


def of_comparison(run: Run) -> None:
    """Offer the ways on from one of the models of a comparison, at first from the one that was planned."""
    if run.request.kind != "study" or run.result.kind != "study":
        return
    ran = zip(run.request.trials(), run.result.measurements, strict=True)
    made = {each.title: (trial, each) for trial, each in ran if trial.recipe.steps and not trial.jitter}
    if state.policy().demo_mode or not made:
        return
    title = st.segmented_control(
        "Which model",
        list(made),
        default=list(made)[-1],
        format_func=wording.verbatim,
        required=True,
        key=f"row-{run.key}",
        wrap=True,
    )
    offer(*made[title])


def offer(trial: Trial, measured: Measurement) -> None:
    """Offer to make and keep the model of a trial, the line that repeats it, and the text that it writes.

    Strangers are offered nothing: they keep no models, and lines name models and texts of this machine.
    """
    if state.policy().demo_mode:
        return
    request = trial.compress_request()
    parts.keep(request)
    with st.expander("The line that repeats it", icon=":material/terminal:"):
        st.code(visible(repeat.command(request)), language="bash", wrap_lines=True)
    with st.expander("The text it writes", icon=":material/edit_note:"):
        _text(trial, measured)


def _text(trial: Trial, measured: Measurement) -> None:
    """Show how the model of a trial continues the prompt: as stored with it, or as it was asked for since."""
    asked = trial if trial.new_tokens else trial.model_copy(update={"new_tokens": TOKENS})
    sample = measured.sample
    if sample is None:
        try:
            found = find_stored(asked)
        except SlicescopeError as error:
            st.error(state.told(error), icon=":material/error:")
            return
        if found and found.result.kind == "trial":
            sample = found.result.measurement.sample
    if sample:
        st.caption(f"It continues the prompt greedily: “{wording.verbatim(trial.prompt)}”")
        st.text(visible(sample.text.strip()) or "(nothing)")
        st.caption(f"{sample.tokens} tokens. An illustration, not evidence.")
        return
    st.markdown(f"Nothing was written when this was judged. To read {TOKENS} tokens, it is made once more.")
    parts.start("Let it write", lambda: asked, ":material/edit_note:", primary=False)

"""Page: how much every block changes its input, and so where the model is redundant."""

import streamlit as st

from analysis.profile import LayerProfile
from analysis.scores import SCORES
from analysis.texts import TextSource
from app import controls, parts, state, wording
from app.figures import draw_profile, outliers
from slicing.runs import ProfileRecipe


def measure_form() -> None:
    """What to measure on; the button queues it."""
    with st.form("profile-form"):
        st.markdown(f"**Measure** {state.source().label}")
        text = controls.text("Text", "calibration", "profile-text")
        windows = controls.number("Windows", "profile-windows", 8)
        length = controls.number("Window length, tokens", "profile-length", 512, 2, 131072, 64)
        seed = controls.number("Seed", "profile-seed", 0, 0, 2**31 - 1)
        bases = st.toggle(
            "Keep the bases, for previews",
            value=True,
            key="profile-bases",
            help="The same pass also finds the directions the stream lives in. With them the Tune page shows "
            "a perplexity for every plan within seconds. Takes D × D × 4 bytes for every sub-layer (80 MB "
            "for the demo model).",
        )
        if st.form_submit_button("Measure", type="primary", icon=":material/query_stats:", width="stretch"):
            parts.queue(
                lambda: ProfileRecipe(
                    model=state.source(),
                    text=TextSource.parse(text, "calibration"),
                    windows=windows,
                    window_length=length,
                    seed=seed,
                    bases=bases,
                )
            )
    st.caption(
        "8 windows of 512 tokens are quick and usually enough: the whiskers say whether more are needed. "
        "Another model is chosen on the Model page."
    )


def draw(profile: LayerProfile) -> None:
    """The chosen score of every block, how to read it, and the same as a table."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = controls.score("shown")
        first_token = st.toggle(
            "Count the first token",
            key="shown-first",
            bind="query-params",
            help="The first token of a window behaves unlike the others. One measurement holds both views.",
        )
        far = outliers(profile.values(name, first_token))
        zoomed = bool(far) and st.toggle(
            "Zoom to the other blocks",
            key="zoom",
            bind="query-params",
            help="Leave the outliers off and fit the axis to the others.",
        )
    score = SCORES[name]
    st.markdown(score.description)
    if far:
        st.badge(wording.outliers(far, left_off=zoomed), icon=":material/error:", color="violet")
    drawing = draw_profile(profile, name, first_token, far if zoomed else (), parts.theme())
    parts.chart(drawing, "profile", profile.to_frame(first_token).round(4))
    st.caption(
        f"{profile.text}, {profile.windows} windows of {profile.window_length:,} tokens, measured in "
        f"{wording.duration(profile.seconds)}. Whiskers: standard deviation over windows. "
        f"Score: {score.source}."
    )


st.title("Where is it redundant?")
st.markdown("A block that hardly changes the residual stream is one the model can spare a part of.")
choice, view = st.columns([3, 7], gap="large")
with choice:
    measure_form()
with view:
    if shown := parts.provenance("profile"):
        if shown.run.recipe.model != state.source():
            st.warning(
                f"This is the profile of {shown.run.recipe.model.label}: press Measure for "
                f"{state.source().label}.",
                icon=":material/sync_problem:",
            )
        draw(shown.run.result.profile)
        parts.reproduction(shown.run)

"""Page: the story, step by step, for a room full of people: one chart at a time, arrow keys, nothing else."""

from urllib.parse import urlencode

import streamlit as st

from analysis.errors import SlicescopeError
from app import parts, state, talk_state, wording
from app.figures.base import DARK, Drawing
from app.figures.cloud import Stage, alive
from app.figures.room import hands
from app.header import IDLE
from app.story import SCENES, Case, Dial, Scene, case_of, scenes_of
from app.story.desk import desk
from app.story.guesses import Guess
from slicing.studies.store import find_details

_PROFILE = "app_pages/profile.py"
_CHART = {"displayModeBar": False, "doubleClick": False}
_STYLE = """<style>
[data-testid="stHeader"], [class*="st-key-remote"], :has(> .st-key-talk-shade) { display: none; }
.st-key-talk [data-testid="stElementContainer"]:has(> .stHtml > .slicescope-desk) { display: none; }
@media (min-width: 900px) {
  .st-key-talk-foot [data-testid="stCaptionContainer"] p::after { content: " · ? lists the keys"; }
}
.stMainBlockContainer { max-width: none; padding: 1.2rem clamp(1rem, 3vw, 5rem) 0.6rem; }
.st-key-talk { min-height: calc(100dvh - 3.2rem); }
.st-key-talk, .st-key-talk-scene { gap: clamp(0.4rem, 1.6dvh, 1.2rem); }
.st-key-talk :has(.st-key-talk-chart), .st-key-talk-chart > * { flex: 1 1 auto; }
.st-key-talk-chart > * { position: relative; min-height: 16rem; }
.st-key-talk-chart > * > * { position: absolute; inset: 0; }
.st-key-talk-chart .stPlotlyChart { height: 100%; }
.st-key-talk h1 { font-size: clamp(1.6rem, 3.2vw, 4rem); padding: 0 0 0.3rem; line-height: 1.25; }
.st-key-talk .katex { font-size: clamp(1.1rem, 2vw, 2.6rem); }
.st-key-talk .katex-display { margin: 0; padding: 0.2em 0; overflow: visible; }
.st-key-talk-room { padding-top: 0.5rem; } /* a denominator reaches below the line of its formula */
.st-key-talk [data-testid="stMarkdownContainer"]:has(.katex-display) { overflow: visible; }
@media (max-width: 700px) { .st-key-talk .katex-display { overflow-x: auto; overflow-y: hidden; } }
.st-key-talk-words p { font-size: clamp(1.3rem, 2.2vw, 3.2rem); line-height: 1.3; }
.st-key-talk [data-testid="stSlider"] :is(p, div) { font-size: clamp(1.1rem, 1.6vw, 2rem); }
.st-key-talk [data-testid="stSlider"] { padding-bottom: 0.8rem; }
.st-key-talk-small { gap: 0.2rem; }
.st-key-talk-small p { font-size: clamp(1rem, 1.5vw, 2.1rem); line-height: 1.3; }
.st-key-talk-small [data-testid="stCaptionContainer"] p { font-size: clamp(0.75rem, 0.95vw, 1.2rem); }
.st-key-talk-chart .stHtml { height: 100%; }
.st-key-talk-room p { font-size: clamp(1rem, 1.4vw, 1.9rem); }
.st-key-talk-room button { min-height: 2.6rem; }
.st-key-talk-foot p { font-size: clamp(1rem, 1.3vw, 1.6rem); }
@media (max-height: 500px) { /* a page at 200 %: it scrolls, and its controls stay */
  .st-key-talk > :has(.st-key-talk-foot), .st-key-talk > .st-key-talk-foot {
    position: sticky; bottom: 0; z-index: 9; background: var(--talk-paper); }
}
@media (min-width: 1600px) {
  .st-key-talk-chart > * > :has(.stPlotlyChart) {
    inset: 0 auto auto 0; width: calc(100% / 1.4); height: calc(100% / 1.4); }
  .st-key-talk-chart .js-plotly-plot { transform: scale(1.4); transform-origin: 0 0; }
}
@media (max-width: 700px) { /* words as large as on a screen would leave the bars of a phone no room */
  .st-key-talk-chart > * > :has(.stPlotlyChart) {
    inset: 0 auto auto 0; width: calc(100% / 0.72); height: calc(100% / 0.72); }
  .st-key-talk-chart > * { overflow: hidden; } /* of the width that the chart had before it was made small */
  .st-key-talk-chart .js-plotly-plot { transform: scale(0.72); transform-origin: 0 0; }
}
</style>"""
# A slider keeps the keyboard after it was dragged, and takes it back a moment later; the arrow keys would
# move it instead of the story. Who walks to it with Tab moves it.
_RELEASE = """<script>
window.slicescopeRelease ??= (() => {
  let dragged = false;
  const release = () => {
    if (dragged && document.querySelector(".st-key-talk")) document.activeElement?.blur();
  };
  document.addEventListener("pointerup", () => { dragged = true; release(); });
  document.addEventListener("focusin", release);
  document.addEventListener("pointerdown", () => { dragged = false; }, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Tab") dragged = false; }, true);
  return true;
})();
</script>"""


def _forward(steps: int) -> None:
    """The answer where it is not shown yet, else the next step."""
    at = talk_state.standing()
    if not at.revealed:
        talk_state.tell(at._replace(revealed=True))
    elif at.step < steps:
        talk_state.tell(at._replace(step=at.step + 1, revealed=not at.predict))


def _back() -> None:
    """The step before, as it was left."""
    at = talk_state.standing()
    talk_state.tell(at._replace(step=max(1, at.step - 1), revealed=True))


def _leave() -> None:
    """Back to the app; the runs that were shown stay shown."""
    st.switch_page(_PROFILE, query_params=talk_state.without_talk())


@st.fragment
def _scene(step: Scene, case: Case, at: talk_state.Talk) -> None:
    """What changes while the dial of a step moves."""
    if talk_state.standing() != at:
        st.rerun()  # a key that came with the dial's last move: the browser asks for the scene alone
    revealed = at.revealed
    words = st.container(key="talk-words")
    # Beside each other where there is room, so that the chart below is high.
    dialled = step.dial is not None and revealed
    formula, dial = st.columns(2, vertical_alignment="center") if dialled else (st.container(), None)
    if at.predict:
        _room(step.guess(case), at)
    picture = st.container(key="talk-chart", height="stretch")
    setting = step.setting(case)
    if step.dial and dial:
        with dial:
            setting = _dialled(step.dial, case, setting)
    try:
        drawing = step.draw(case, setting, parts.theme(), not revealed)
        words.markdown(step.sentence(case, setting) if revealed else step.question)
    except SlicescopeError as error:
        words.error(state.told(error), icon=":material/error:")
        return
    formula.latex(step.formula(case))
    told = drawing.takeaway if revealed else step.question
    with picture:
        if step.live:
            st.html(step.live(case, parts.theme(), not revealed), unsafe_allow_javascript=True)
        elif step.stages:
            _move(case, step.stages[revealed], told)
        else:
            _show(drawing, told)
    with st.container(key="talk-small"):
        if revealed and (why := step.why(case)):
            st.markdown(why)
        st.caption(wording.verbatim(step.source(case)))


def _room(guess: Guess, at: talk_state.Talk) -> None:
    """Count what the room guesses, and with the answer hold the counts against the truth."""
    counted = talk_state.guesses(at.step, len(guess.options))
    with st.container(key="talk-room"):
        if at.revealed:
            if sum(counted):
                st.html(hands(guess.options, counted, guess.right, parts.theme()))
            return
        with st.container(horizontal=True, gap="small"):
            for place, (option, count) in enumerate(zip(guess.options, counted, strict=True)):
                st.button(
                    wording.verbatim(option) + (f" **· {wording.counted(count, 'hand')}**" if count else ""),
                    key=f"guess-{place}",
                    shortcut=str(place + 1),
                    on_click=talk_state.count_guess,
                    args=(at.step, len(counted), place),
                )
            if sum(counted):
                st.button(
                    "Count anew",
                    key="guess-none",
                    type="tertiary",
                    on_click=talk_state.forget_guesses,
                    args=(at.step,),
                )


def _dialled(dial: Dial, case: Case, setting: float) -> float:
    """The dial in whole percent."""
    low, high = (round(100 * end(case)) for end in (dial.lowest, dial.highest))
    if low >= high:
        return setting
    usual = round(100 * setting)
    chosen = st.slider(dial.title, low, high, usual, format="%d %%", key=f"dial-{dial.name}")
    return setting if chosen == usual else chosen / 100


def _show(drawing: Drawing, alt: str) -> None:
    """The chart, as high as the screen has room for."""
    st.plotly_chart(drawing.figure, key="talk-figure", height="stretch", config=_CHART, alt=alt)


def _move(case: Case, stage: Stage, alt: str) -> None:
    """The moving picture, which goes on from where the scene before left it."""
    if cloud := case.cloud:
        st.html(alive(cloud, stage, parts.theme(), alt), unsafe_allow_javascript=True)


def _address() -> str:
    """The address that leads to this very step."""
    query = urlencode(st.query_params.to_dict())
    return f"{(st.context.url or '').partition('?')[0]}?{query}"


def _foot(at: talk_state.Talk, steps: int) -> None:
    """Where one is, and how to go on by touch."""
    with st.container(key="talk-foot", horizontal=True, vertical_alignment="center", gap="small"):
        last = at.step == steps and at.revealed
        st.button("Back", key="back", type="tertiary", shortcut="Left", on_click=_back, disabled=at.step == 1)
        label = "Next" if at.revealed else "Reveal"
        going = {"on_click": _forward, "args": (steps,)}
        st.button(label, key="forward", type="tertiary", shortcut="Right", disabled=last, **going)
        st.caption(f"{at.step} / {steps}", width="stretch", text_alignment="center")
        st.page_link("app_pages/notes.py", label="Notes", query_params=talk_state.without_talk())
        if st.button("Leave", key="leave", type="tertiary", shortcut="Esc"):
            _leave()
    # What the remote controls of presenters send.
    st.button("Next page", key="remote-forward", shortcut="PageDown", **going)
    st.button("Previous page", key="remote-back", shortcut="PageUp", on_click=_back)


st.html(_STYLE)
paper = st.get_option(f"theme.{'dark' if parts.theme() is DARK else 'light'}.backgroundColor")
st.html(f"<style>.st-key-talk {{ --talk-paper: {paper}; }}</style>")
st.html(_RELEASE, unsafe_allow_javascript=True)
with st.container(key="talk-shade"):  # other pages have the strip, which looks after this
    parts.apart(parts.follow_theme, parts.theme() is DARK, every=IDLE)
shown, told, problem = state.shown("compare"), None, ""
try:
    told = case_of(shown.run, find_details(shown.run)) if shown else None
except SlicescopeError as error:
    problem = state.told(error)
scenes = scenes_of(told) if told else SCENES
at = talk_state.talk(len(scenes))
with st.container(key="talk"):
    step = scenes[at.step - 1]
    st.title(step.title, anchor=False)
    scene = st.container(key="talk-scene", height="stretch")
    _foot(at, len(scenes))  # before the scene: a key that comes while the scene is drawn is not lost
    with scene:
        if told:
            _scene(step, told, at)
            dark = parts.theme() == DARK
            st.html(desk(scenes, at.step, told, _address(), dark), unsafe_allow_javascript=True)
        elif problem:
            st.error(problem, icon=":material/error:")
        else:
            st.info("There is no finished comparison to tell the story of: run one on the Compare page.")

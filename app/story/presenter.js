// The presenter's desk: a window with notes and a clock, a code that opens this very state, light and dark, and
// the list of keys. No "<" stands before a letter here: what cleans the page would take the script for markup.
(() => {
  const make = (tag, text, parent, name) => {
    const found = parent.ownerDocument.createElement(tag);
    if (text) found.textContent = text;
    if (name) found.className = name;
    parent.append(found);
    return found;
  };
  const STYLE = `
    body { margin: 0; padding: 1.4rem 2rem; font: 20px/1.4 system-ui, sans-serif; color: #10151B; background: #FFF; }
    h1 { font-size: 1.5rem; margin: 0.2rem 0 0.6rem; } p { margin: 0 0 0.7rem; }
    .clock { float: right; font-size: 2rem; font-variant-numeric: tabular-nums; } .late { color: #B3261E; }
    .next { border-top: 1px solid #C9CED4; padding-top: 0.6rem; color: #4A5058; }
    @media (prefers-color-scheme: dark) { body { color: #E8EAED; background: #12161C; } .next { color: #B9BFC7; }
      .late { color: #F2B8B5; } }`;
  const press = (name) => document.querySelector(`.st-key-${name} button`)?.click();
  const KEYS = {ArrowRight: "forward", PageDown: "forward", ArrowLeft: "back", PageUp: "back"};

  function desk() {
    const told = document.querySelector(".slicescope-desk");
    return told && JSON.parse(told.dataset.desk);
  }

  const kit = window.slicescopeDesk ??= (() => {
    const state = {speaker: null, since: null, overlay: null};

    state.close = () => {
      if (!state.overlay) return false;
      state.overlay.remove();
      state.overlay = null;
      return true;
    };

    state.lay = (title, fill) => {
      const same = state.overlay?.dataset.title === title;
      state.close();
      if (same) return;
      const over = state.overlay = make("div", "", document.body, "slicescope-over");
      over.dataset.title = title;
      over.setAttribute("role", "dialog");
      over.setAttribute("aria-modal", "true");
      over.setAttribute("aria-label", title);
      over.tabIndex = -1;
      const box = make("div", "", over);
      make("h2", title, box);
      fill(box);
      const shut = make("button", "Close", box);
      shut.addEventListener("click", state.close);
      over.addEventListener("click", (event) => { if (event.target === over) state.close(); });
      shut.focus();
    };

    state.keys = () => state.lay("Keys", (box) => {
      const list = make("dl", "", box);
      for (const [key, meaning] of desk().keys) {
        make("dt", key, list);
        make("dd", meaning, list);
      }
    });

    state.code = () => state.lay("Open this very step", (box) => {
      const {code, address, alone} = desk();
      const image = make("img", "", box);
      image.src = code;
      image.alt = `A code that opens ${address}`;
      make("p", address, box);
      if (alone) make("p", alone, box);
    });

    state.shade = () => {
      const dark = desk().dark;
      // Where streamlit keeps what somebody chose in its menu; the address brings the step back.
      localStorage.setItem(`stActiveTheme-${location.pathname}-v2`, JSON.stringify(dark ? "Light" : "Dark"));
      location.reload();
    };

    state.speak = () => {
      const speaker = state.speaker = window.open("", "slicescope-speaker", "width=900,height=720");
      if (!speaker) return;
      // The clock goes on where light and dark changed, which loads the page anew.
      state.since = Number(sessionStorage.slicescopeSince ??= Date.now());
      speaker.document.title = "slicescope: notes";
      speaker.document.head.replaceChildren();
      make("style", STYLE, speaker.document.head);
      speaker.onkeydown = state.pressed;
      state.tell();
      speaker.focus();
    };

    state.tell = () => {
      const {speaker} = state, told = desk();
      if (!speaker || speaker.closed || !told) return;
      const body = speaker.document.body;
      body.replaceChildren();
      state.clock = make("div", "", body, "clock");
      make("h1", `${told.step} / ${told.of}  ${told.title}`, body);
      for (const [title, text] of told.notes) {
        const line = make("p", "", body);
        make("b", `${title}. `, line);
        line.append(text);
      }
      make("p", told.next, body, "next");
      state.tick();
    };

    state.tick = () => {
      const told = desk();
      if (!state.clock || !told || state.speaker?.closed) return;
      const seconds = Math.floor((Date.now() - state.since) / 1000);
      const two = (x) => String(x).padStart(2, "0");
      state.clock.textContent = `${Math.floor(seconds / 60)}:${two(seconds % 60)} · until ${told.until}:00`;
      state.clock.classList.toggle("late", seconds > 60 * told.until);
    };
    setInterval(state.tick, 1000);

    state.pressed = (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !document.querySelector(".slicescope-desk")) return;
      if (event.target?.matches?.("input:not([type=range]), textarea, select")) return;
      if (event.key === "Escape" && state.close()) {
        event.stopImmediatePropagation();
        return;
      }
      const away = event.view !== window && event.view !== null;
      if (away && KEYS[event.key]) press(KEYS[event.key]);
      if (away && /^[1-9]$/.test(event.key)) press(`guess-${event.key - 1}`);
      if (away) window.slicescopeDial?.turn({ArrowUp: 1, ArrowDown: -1}[event.key] ?? 0);
      const action = {"?": state.keys, q: state.code, d: state.shade, s: state.speak}[event.key];
      if (!action) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      action();
    };
    window.addEventListener("keydown", state.pressed, true);
    return state;
  })();

  if (kit.overlay && !document.querySelector(".slicescope-desk")) kit.close();
  kit.tell();
})();

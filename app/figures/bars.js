// Handles on the tops of the bars of the plan: drag one, or focus it and press an arrow key. What was chosen is
// typed into a field, which streamlit reads. No "<" stands before a letter here: what cleans the page would
// take the script for markup.
window.slicescopeBars ??= (() => {
  const type = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const kit = {
    plot: null, layer: null, handles: [], ghosts: [], at: 0, focused: false,
    held: 0, value: null, timer: 0,  // the bar that is being moved, where it is, and until when keys are gathered
    sent: 0, waiting: [], asked: null,  // moves: how many were sent, which wait, and which has no answer yet
    gone: 0,  // looks since there was a plan
  };
  const PATIENCE = 10_000;  // milliseconds until a move without an answer is given up

  kit.told = () => {
    const found = document.querySelector(".slicescope-bars");
    return found && JSON.parse(found.dataset.bars);
  };

  // One move at a time: the server takes each from the plan as it drew it last, and of two that come together
  // it sees the last alone.
  kit.send = (block, value) => {
    kit.waiting = [...kit.waiting.filter((each) => each.block !== block), {block, value}];
    kit.next();
  };

  kit.next = () => {
    const told = kit.told(), field = document.querySelector(".st-key-plan-move input");
    const {asked} = kit;
    if (asked && (told?.taken >= asked.number || performance.now() > asked.since + PATIENCE)) kit.asked = null;
    if (kit.asked || !kit.waiting.length || !field) return;  // the page may be being drawn: this is tried again
    const {block, value} = kit.waiting.shift();
    kit.sent += 1;
    kit.asked = {block, value, number: kit.sent, since: performance.now()};
    type.call(field, `${block}:${value.toFixed(1)}:${kit.sent}`);
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
  };

  // The bars with the moves that have no answer yet.
  kit.cut = (told) => {
    const moves = kit.asked ? [kit.asked, ...kit.waiting] : kit.waiting;
    return moves.reduce((cut, {block, value}) => kit.guess({...told, cut}, block, value), told.cut);
  };

  // How the others give way until the answer comes: in proportion.
  kit.guess = (told, block, value) => {
    const total = told.cut.reduce((sum, each) => sum + each, 0);
    const others = Math.max(total - told.cut[block], 1e-9);
    const scale = Math.max(total - value, 0) / others;
    return told.cut.map((each, place) => place === block ? value : Math.min(each * scale, told.most));
  };

  kit.level = (percent) => {
    const {yaxis} = kit.plot._fullLayout;
    return yaxis._offset + yaxis.d2p(percent);
  };

  kit.show = (told, block, value) => {
    kit.guess({...told, cut: kit.cut(told)}, block, value).forEach((each, place) => {
      kit.ghosts[place].style.top = `${kit.level(each)}px`;
      kit.ghosts[place].hidden = false;
    });
    const handle = kit.handles[block];
    handle.style.top = `${kit.level(value)}px`;
    handle.dataset.value = `block ${block}: ${value.toFixed(1)} %`;
    handle.setAttribute("aria-valuenow", value.toFixed(1));
    handle.setAttribute("aria-valuetext", `${value.toFixed(1)} % of the width`);
  };

  // Of one bar at a time: the move of another ends.
  kit.hold = (block) => {
    if (kit.held !== block) kit.finish();
    kit.held = block;
  };

  kit.choose = (block) => {
    kit.handles[kit.at]?.setAttribute("tabindex", "-1");
    kit.at = clamp(block, 0, kit.handles.length - 1);
    kit.handles[kit.at].setAttribute("tabindex", "0");
  };

  kit.key = (event, handle = event.currentTarget) => {
    const told = kit.told(), block = Number(handle.dataset.block);
    if (!told || event.ctrlKey || event.altKey || event.metaKey) return;
    const aside = {ArrowLeft: block - 1, ArrowRight: block + 1}[event.key];
    if (aside === undefined) kit.hold(block);
    const step = event.shiftKey ? 5 * told.step : told.step;
    const from = kit.value ?? kit.cut(told)[block];
    const to = {
      ArrowUp: from + step, ArrowDown: from - step, PageUp: from + 5 * told.step, PageDown: from - 5 * told.step,
      Home: 0, End: told.most,
    }[event.key];
    if (to === undefined && aside === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (aside !== undefined) {
      kit.choose(aside);
      kit.handles[kit.at].focus();
      return;
    }
    kit.value = clamp(to, 0, told.most);
    kit.show(told, block, kit.value);
    clearTimeout(kit.timer);
    kit.timer = setTimeout(kit.finish, 350);
  };

  kit.finish = () => {
    const {held, value} = kit;
    clearTimeout(kit.timer);
    kit.value = null;
    if (value !== null) kit.send(held, value);
  };

  kit.drag = (event) => {
    const told = kit.told(), handle = event.currentTarget, block = Number(handle.dataset.block);
    if (!told || event.button) return;
    event.preventDefault();
    event.stopPropagation();
    kit.finish();
    kit.hold(block);
    kit.choose(block);
    handle.focus({preventScroll: true});
    const start = event.clientY, from = kit.level(kit.cut(told)[block]);
    const move = (moved) => {
      const {yaxis} = kit.plot._fullLayout;
      const percent = yaxis.p2d(from + moved.clientY - start - yaxis._offset);
      kit.value = clamp(Math.round(10 * percent) / 10, 0, told.most);
      kit.show(told, block, kit.value);
    };
    const end = () => {
      removeEventListener("pointermove", move, true);
      removeEventListener("pointerup", end, true);
      removeEventListener("pointercancel", end, true);
      kit.finish();
    };
    // Not of the handle, which loses the pointer when a chart that is drawn anew takes it along.
    addEventListener("pointermove", move, true);
    addEventListener("pointerup", end, true);
    addEventListener("pointercancel", end, true);
  };

  kit.make = (count) => {
    kit.layer?.remove();
    kit.layer = document.createElement("div");
    kit.layer.className = "slicescope-handles";
    kit.layer.setAttribute("role", "group");
    kit.layer.setAttribute("aria-label", "Slices of the blocks: up and down change one, left and right go on");
    const part = (name) => {
      const found = document.createElement("div");
      found.className = name;
      kit.layer.append(found);
      return found;
    };
    kit.ghosts = Array.from({length: count}, () => part("ghost"));
    kit.handles = Array.from({length: count}, (_, block) => {
      const handle = part("handle");
      handle.dataset.block = block;
      handle.setAttribute("role", "slider");
      handle.setAttribute("aria-orientation", "vertical");
      handle.setAttribute("aria-label", `Slice of block ${block}`);
      handle.setAttribute("aria-valuemin", "0");
      handle.setAttribute("tabindex", block === kit.at ? "0" : "-1");
      handle.addEventListener("pointerdown", kit.drag);
      handle.addEventListener("keydown", (event) => kit.key(event));
      handle.addEventListener("focus", () => { kit.focused = true; });
      return handle;
    });
  };

  // A chart that is not seen yet takes no focus: this is tried again.
  kit.lost = () => kit.focused && (document.activeElement ?? document.body) === document.body;
  kit.regain = () => {
    if (kit.lost() && kit.layer?.isConnected) kit.handles[kit.at]?.focus({preventScroll: true});
  };

  kit.place = () => {
    const told = kit.told();
    const plot = document.querySelector(".st-key-plan .js-plotly-plot");
    if (!told || plot?._fullLayout?.yaxis?._offset === undefined) return;
    if (kit.plot !== plot) {
      kit.plot = plot;
      plot.style.position = "relative";
      plot.on?.("plotly_afterplot", () => requestAnimationFrame(kit.place));
    }
    if (kit.handles.length !== told.cut.length) kit.make(told.cut.length);
    if (kit.layer.parentElement !== plot) {
      // A chart that streamlit made anew takes the handles along, and the focus, which moving them loses.
      plot.append(kit.layer);
      kit.regain();
    }
    const field = document.querySelector(".st-key-plan-move input");
    if (field) field.tabIndex = -1;
    kit.next();
    if (kit.value !== null || kit.asked || kit.waiting.length) return;  // they stand where they were moved to
    const {xaxis} = plot._fullLayout, wide = xaxis.d2p(1) - xaxis.d2p(0);
    told.cut.forEach((percent, block) => {
      const left = xaxis._offset + xaxis.d2p(block), handle = kit.handles[block];
      for (const each of [handle, kit.ghosts[block]]) {
        each.style.left = `${left - 0.42 * wide}px`;
        each.style.width = `${0.84 * wide}px`;
        each.style.top = `${kit.level(percent)}px`;
      }
      kit.ghosts[block].hidden = true;
      delete handle.dataset.value;
      handle.setAttribute("aria-valuemax", told.most.toFixed(1));
      handle.setAttribute("aria-valuenow", percent.toFixed(1));
      handle.setAttribute("aria-valuetext", `${percent.toFixed(1)} % of the width`);
    });
  };

  // Streamlit draws charts anew when it likes: the handles follow. Where there is no plan any more, nothing is
  // answered.
  setInterval(() => {
    kit.gone = kit.told() ? 0 : kit.gone + 1;
    if (kit.gone > 5) [kit.asked, kit.waiting] = [null, []];
    const plot = document.querySelector(".st-key-plan .js-plotly-plot");
    if (plot && kit.told() && (plot !== kit.plot || !kit.layer?.isConnected || kit.asked || kit.waiting.length)) {
      kit.place();
    }
    kit.regain();
  }, 200);
  for (const kind of ["focusin", "pointerdown"]) {
    document.addEventListener(kind, (event) => { kit.focused = Boolean(event.target?.closest?.(".slicescope-handles")); });
  }
  // A key that comes before the focus is back is of the bar all the same.
  document.addEventListener("keydown", (event) => { if (kit.lost() && kit.told()) kit.key(event, kit.handles[kit.at]); });
  addEventListener("resize", () => setTimeout(kit.place, 200));
  return kit;
})();
window.slicescopeBars.place();

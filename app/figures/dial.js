// The dial of sizes: the same prompt continued by the model at each size. It turns with the pointer, with the
// arrow keys up and down wherever one is, and with all of them for whoever walked to it with Tab. Left and right
// belong to the story. No "<" stands before a letter here: what cleans the page would take the script for markup.
(() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const SWEEP = 135, MIDDLE = 120;  // degrees to each side of the top; centre of the picture
  const LEFT = -26, TOP = 8, WIDE = 292, HIGH = 206;  // of the picture, so that the labels at its sides are in it
  const make = (tag, name, text) => {
    const found = document.createElement(tag);
    if (name) found.className = name;
    if (text) found.textContent = text;
    return found;
  };
  const shape = (tag, given, parent) => {
    const found = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(given)) found.setAttribute(name, value);
    parent.append(found);
    return found;
  };
  const around = (degrees, far) => {
    const angle = (degrees - 90) * Math.PI / 180;
    return [MIDDLE + far * Math.cos(angle), MIDDLE + far * Math.sin(angle)];
  };

  class Dial {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.dataset.dial);
      const last = this.data.sizes.length - 1;
      if (shown.about !== this.data.about) shown.at = 0;
      shown.about = this.data.about;
      this.at = this.data.open ? Math.min(shown.at, last) : 0;
      this.build();
      this.tell();
    }

    angle(place) {
      return SWEEP * (2 * this.data.sizes[place].turn - 1);
    }

    build() {
      const {labels, sizes, open, prompt} = this.data;
      const hand = make("div", "hand");
      const knob = this.knob = make("div", "knob");
      knob.setAttribute("role", "slider");
      knob.setAttribute("aria-label", labels.dial);
      knob.setAttribute("aria-valuemin", "0");
      knob.setAttribute("aria-valuemax", String(sizes.length - 1));
      knob.setAttribute("aria-disabled", String(!open));
      knob.tabIndex = open ? 0 : -1;
      this.paint(knob);
      const counters = make("div", "counters");
      this.values = {};
      for (const name of ["perplexity", "parameters"]) {
        const box = make("div", name);
        const value = make("b"), unit = make("span", "", labels[name]), note = make("span");
        box.append(value, unit, note);
        counters.append(box);
        this.values[name] = [value, note];
      }
      hand.append(knob, counters);
      const page = make("div", "page");
      const written = make("p", "written");
      written.setAttribute("aria-live", "polite");
      this.text = make("span", "text");
      written.append(make("span", "prompt", prompt), this.text);
      page.append(written, make("p", "legend", open ? `${labels.marked}. ${this.upper(labels.hint)}.` : ""));
      this.root.append(hand, page);
      if (open) this.listen(knob);
    }

    upper(words) {
      return words.charAt(0).toUpperCase() + words.slice(1);
    }

    paint(knob) {
      const picture = shape("svg", {viewBox: `${LEFT} ${TOP} ${WIDE} ${HIGH}`, "aria-hidden": "true"}, knob);
      const arc = (to, colour, wide) => {
        const [x, y] = around(-SWEEP, 84), [u, v] = around(to, 84);
        const large = to + SWEEP > 180 ? 1 : 0;
        return shape("path", {d: `M ${x} ${y} A 84 84 0 ${large} 1 ${u} ${v}`, fill: "none", stroke: colour,
          "stroke-width": wide, "stroke-linecap": "round"}, picture);
      };
      arc(SWEEP, "var(--edge)", 3);
      this.passed = this.data.sizes.map((_, place) => place > 0 && arc(this.angle(place), "var(--line)", 7));
      this.marks = this.data.sizes.map((size, place) => {
        const degrees = this.angle(place), beside = Math.abs(degrees) > 25 && 115 > Math.abs(degrees);
        const [x, y] = around(degrees, 84), [u, v] = around(degrees, beside ? 98 : 107);
        const dot = shape("circle", {cx: x, cy: y, r: 6, fill: "var(--edge)"}, picture);
        const label = shape("text", {x: u, y: v + 5, fill: "var(--ink)", "font-size": 17,
          "text-anchor": beside ? (degrees > 0 ? "start" : "end") : "middle"}, picture);
        label.textContent = size.label;
        for (const each of [dot, label]) each.dataset.place = place;
        return {dot, label};
      });
      shape("circle", {cx: MIDDLE, cy: MIDDLE, r: 62, fill: "var(--knob)"}, picture);
      const needle = this.needle = shape("g", {class: "needle"}, picture);
      needle.style.transformOrigin = `${MIDDLE}px ${MIDDLE}px`;
      shape("line", {x1: MIDDLE, y1: MIDDLE - 26, x2: MIDDLE, y2: MIDDLE - 54, stroke: "#FFFFFF",
        "stroke-width": 8, "stroke-linecap": "round"}, needle);
    }

    listen(knob) {
      const follow = (event) => {
        const place = event.target.dataset?.place;
        const box = knob.firstChild.getBoundingClientRect();
        const scale = box.width / WIDE;
        const x = event.clientX - box.left - (MIDDLE - LEFT) * scale;
        const y = event.clientY - box.top - (MIDDLE - TOP) * scale;
        if (event.type === "pointerdown" && place !== undefined) return this.go(Number(place));
        const degrees = Math.atan2(x, -y) * 180 / Math.PI;
        const far = this.data.sizes.map((_, index) => Math.abs(this.angle(index) - degrees));
        this.go(far.indexOf(Math.min(...far)));
      };
      knob.addEventListener("pointerdown", (event) => {
        event.preventDefault();  // no focus: the arrow keys stay with the story
        knob.setPointerCapture(event.pointerId);
        this.held = true;
        follow(event);
      });
      knob.addEventListener("pointermove", (event) => { if (this.held) follow(event); });
      for (const name of ["pointerup", "pointercancel"]) knob.addEventListener(name, () => { this.held = false; });
    }

    go(place) {
      const to = Math.min(Math.max(place, 0), this.data.sizes.length - 1);
      if (!this.data.open || to === this.at) return;
      this.at = shown.at = to;
      this.tell();
    }

    tell() {
      const size = this.data.sizes[this.at];
      this.needle.style.transform = `rotate(${this.angle(this.at)}deg)`;
      this.passed.forEach((arc, place) => { if (arc) arc.style.display = place === this.at ? "" : "none"; });
      this.marks.forEach(({dot, label}, place) => {
        dot.setAttribute("fill", place === this.at ? "var(--line)" : "var(--edge)");
        dot.setAttribute("r", place === this.at ? 9 : 6);
        label.setAttribute("font-weight", place === this.at ? "700" : "400");
      });
      for (const [name, note] of [["perplexity", size.rise], ["parameters", size.fewer]]) {
        this.values[name][0].textContent = size[name];
        this.values[name][1].textContent = note;
      }
      const words = [];
      for (const [word, gone] of size.words) {
        const bare = word.trimStart();
        words.push(word.slice(0, word.length - bare.length));
        words.push(gone ? make("mark", "", bare) : bare);
      }
      this.text.replaceChildren(...words, " …");
      this.text.classList.remove("fresh");
      void this.text.offsetWidth;  // so that it fades in anew
      this.text.classList.add("fresh");
      this.knob.setAttribute("aria-valuenow", String(this.at));
      this.knob.setAttribute("aria-valuetext",
        `${size.parameters} ${this.data.labels.parameters}, ${size.fewer}, ${this.data.labels.perplexity} ${size.perplexity}`);
    }
  }

  const shown = window.slicescopeDial ??= (() => {
    const state = {about: null, at: 0, dial: null};
    const STEPS = {ArrowUp: 1, ArrowDown: -1, ArrowRight: 1, ArrowLeft: -1};
    state.turn = (steps) => {
      if (state.dial?.root.isConnected && state.dial.data.open) state.dial.go(state.dial.at + steps);
    };
    window.addEventListener("keydown", (event) => {
      const {dial} = state;
      if (!dial?.root.isConnected || !dial.data.open || window.slicescopeDesk?.overlay) return;
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target?.matches?.("input, textarea, select, [contenteditable]")) return;
      const focused = document.activeElement === dial.knob;
      const ends = {Home: 0, End: dial.data.sizes.length - 1};
      if (focused && event.key in ends) dial.go(ends[event.key]);
      else if (/^Arrow(Up|Down)$/.test(event.key) || focused && event.key in STEPS) state.turn(STEPS[event.key]);
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
    }, true);
    return state;
  })();

  for (const root of document.querySelectorAll(".slicescope-dial:not([data-begun])")) {
    root.dataset.begun = "1";
    shown.dial = new Dial(root);
  }
})();

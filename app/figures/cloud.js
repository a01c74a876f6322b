// The cloud of token states, in a canvas: it turns to its principal axes, its thin axes are shaded, and they
// are cut. No "<" stands before a letter here: what cleans the page would take the script for markup.
(() => {
  const STAGES = {
    askew: {turn: 0, shade: 0, cut: 0},
    turned: {turn: 1, shade: 0, cut: 0},
    shaded: {turn: 1, shade: 1, cut: 0},
    cut: {turn: 1, shade: 1, cut: 1},
  };
  const MILLISECONDS = {turn: 2200, shade: 900, cut: 1600};
  const KEYS = ["turn", "shade", "cut"];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const EDGE = 8;  // pixels from the ends of the dial to where the middle of its thumb can stand
  const shown = window.slicescopeCloud ??= (() => {
    // ``live`` is the picture on the page. The page may be drawn anew while the pointer holds the dial, or while
    // the dial has the focus: both go on with the new picture.
    const state = {
      pose: null, about: null, frames: 0, spent: 0, live: null, held: false, focused: false, timer: 0,
    };
    const listen = (kind, act) => addEventListener(kind, (event) => { if (state.held) act(event); }, true);
    listen("pointermove", (event) => state.live?.follow(event.clientX));
    for (const kind of ["pointerup", "pointercancel"]) {
      listen(kind, () => { state.held = false; state.live?.release(); });
    }
    for (const kind of ["focusin", "pointerdown"]) {
      document.addEventListener(kind, (event) => {
        state.focused = Boolean(event.target?.matches?.(".slicescope-cloud.beside .dial"));
      });
    }
    return state;
  })();

  const ease = (t) => (t < 0.5 ? 4 * t * t * t : 1 - Math.pow(-2 * t + 2, 3) / 2);
  const mix = (a, b, t) => a + (b - a) * t;
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  const make = (tag, name, text) => {
    const found = document.createElement(tag);
    if (name) found.className = name;
    if (text) found.textContent = text;
    return found;
  };
  const share = (x) => {
    const percent = 100 * x;
    const digits = percent >= 99.995 || percent >= 10 && percent < 99 ? 0 : percent >= 99 ? 2 : 2;
    return percent.toFixed(digits) + "\u00a0%";
  };

  // The rotation by an angle around a fixed tilted axis (Rodrigues), times what is left of the turn.
  function rotation(angle) {
    const [x, y, z] = [0.48, 0.6, 0.64], c = Math.cos(angle), s = Math.sin(angle), d = 1 - c;
    return [
      [c + x * x * d, x * y * d - z * s, x * z * d + y * s],
      [y * x * d + z * s, c + y * y * d, y * z * d - x * s],
      [z * x * d - y * s, z * y * d + x * s, c + z * z * d],
    ];
  }

  class Cloud {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.dataset.cloud);
      this.stage = root.dataset.stage;
      this.beside = root.classList.contains("beside");
      this.place = clamp(shown.place ?? this.data.middle, 0, this.data.blocks.length - 1);
      const same = shown.about === this.data.about;
      const kept = this.stage === "cut" && same && shown.width;
      shown.held &&= Boolean(kept);  // what is held now is another thing
      shown.live = this;
      this.width = kept ? shown.width : this.data.width;
      this.pose = same && shown.pose ? {...shown.pose} : {...STAGES.askew};
      shown.about = this.data.about;
      this.pointer = null;
      this.build();
      this.go(STAGES[this.stage], same || still.matches ? 0 : 500);
      this.size = new ResizeObserver(() => this.measure());
      this.size.observe(this.root);
      this.measure();
      // A plan may have changed meanwhile: the picture goes where it stands now.
      if (kept && !shown.held && this.data.grip && this.data.width !== this.width) this.slide(this.data.width);
      if (shown.focused && (document.activeElement ?? document.body) === document.body) {
        this.range?.focus({preventScroll: true});
      }
    }

    build() {
      const {labels, blocks, stops, cost} = this.data;
      this.family = getComputedStyle(this.root).fontFamily;
      // A dot is drawn once and then copied: a path of hundreds of circles takes longer than all else.
      this.dot = make("canvas");
      this.dot.width = this.dot.height = 32;
      const ink = this.dot.getContext("2d");
      ink.fillStyle = this.data.colours.point;
      ink.arc(16, 16, 16, 0, 7);
      ink.fill();
      this.sky = make("canvas", "sky");
      this.sky.setAttribute("role", "img");
      this.sky.setAttribute("aria-label", this.root.getAttribute("aria-label") ?? "");
      this.root.removeAttribute("aria-label");
      const side = make("div", "side");
      this.counters = {};
      for (const name of stops.length || cost ? ["perplexity", "energy", "width"] : ["energy", "width"]) {
        const box = make("div", "counter " + name);
        const value = make("b"), note = make("span", "", labels[name]);
        box.append(value, note);
        side.append(box);
        this.counters[name] = {value, note};
      }
      this.strip = make("canvas", "strip");
      this.strip.setAttribute("aria-hidden", "true");
      const chooser = make("label", "", labels.block + " ");
      this.select = make("select");
      blocks.forEach((each, place) => {
        const option = make("option", "", String(each.block));
        option.value = place;
        this.select.append(option);
      });
      this.select.value = this.place;
      this.select.addEventListener("change", () => {
        this.place = shown.place = Number(this.select.value);
        this.draw();
      });
      chooser.append(this.select);
      if (blocks.length > 1) side.append(chooser);
      this.root.append(this.sky, side, this.strip);
      if (this.stage === "cut") this.root.append(this.dial());
      this.sky.addEventListener("pointermove", (event) => {
        const box = this.sky.getBoundingClientRect();
        this.pointer = [event.clientX - box.left, event.clientY - box.top];
        this.ask();
      });
      this.sky.addEventListener("pointerleave", () => { this.pointer = null; this.ask(); });
      // The arrow keys of whoever walked here with Tab move what is here, and not the story.
      this.root.addEventListener("keydown", (event) => {
        if (/^(Arrow|Page|Home|End)/.test(event.key)) event.stopPropagation();
      });
    }

    dial() {
      const {labels, size} = this.data;
      const range = this.range = make("input", "dial");
      range.setAttribute("aria-label", labels.dial);
      range.type = "range";
      range.min = 0;  // so that the thumb stands below the line of the cut
      range.max = size;
      range.step = 1;
      range.value = this.width;
      range.addEventListener("input", () => {
        // A key goes from one measured width to the next; the pointer, which is followed, passes all between.
        if (!shown.held) {
          this.take(this.next(Number(range.value)));
          this.tell(500);
        }
        range.value = this.width;
      });
      range.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        shown.held = true;
        this.follow(event.clientX);
      });
      return range;
    }

    take(width) {
      const {stops, grip} = this.data;
      this.target = null;
      this.width = Math.max(width, stops.at(-1)?.[0] ?? grip?.least ?? 1);
      this.settle();
    }

    // The width below the pointer.
    follow(x) {
      if (!this.range?.clientWidth) return;
      const box = this.range.getBoundingClientRect(), {size} = this.data;
      const share = (x - box.left - EDGE) / (box.width - 2 * EDGE);
      this.take(Math.round(clamp(share, 0, 1) * size));
    }

    release() {
      if (this.data.stops.length) this.slide(this.nearest(this.width));
      else this.tell(0);
      shown.focused = false;
      this.range?.blur();
    }

    // The slice of a block of the plan, typed into the field that the bars of the plan type into too.
    tell(wait) {
      const {grip, size} = this.data;
      clearTimeout(shown.timer);
      if (!grip || !window.slicescopeBars) return;
      shown.timer = setTimeout(() => window.slicescopeBars.send(grip.block, 100 * (1 - this.width / size)), wait);
    }

    nearest(width) {
      return this.data.stops.reduce((a, b) => (Math.abs(b[0] - width) < Math.abs(a[0] - width) ? b : a))[0];
    }

    next(width) {
      const {size, stops, grip} = this.data, down = width < this.width;
      if (!stops.length) return clamp(this.width + (down ? -1 : 1) * (grip?.step ?? 1), 1, size);
      const beyond = stops.map((each) => each[0]).filter((each) =>
        down ? each < this.width - 0.5 : each > this.width + 0.5);
      return beyond.length ? (down ? Math.max(...beyond) : Math.min(...beyond)) : this.width;
    }

    settle() {
      shown.width = this.width;
      if (this.range) {
        this.range.value = this.width;
        this.range.setAttribute("aria-valuetext", this.told());
      }
      this.ask();
    }

    told() {
      const {size, labels} = this.data;
      const cost = this.counters.perplexity ? `, ${this.perplexity(this.width)[2]} ${this.perplexity(this.width)[0]}` : "";
      return `${Math.round(this.width)} ${labels.of} ${size}${cost}`;
    }

    slide(width) {
      if (still.matches) { this.width = width; this.settle(); return; }
      this.target = {from: this.width, to: width, since: performance.now()};
      this.ask();
    }

    go(to, delay) {
      if (still.matches) { this.pose = {...to}; this.settle(); this.ask(); return; }
      const at = performance.now() + delay;
      this.moves = KEYS.filter((key) => this.pose[key] !== to[key]).map((key) => ({
        key, from: this.pose[key], to: to[key], since: at, takes: MILLISECONDS[key],
      }));
      // One after the other: first the turn, then the shade, then the cut; back in the other order.
      const order = this.moves.some((each) => each.to < each.from) ? [...this.moves].reverse() : this.moves;
      order.reduce((since, each) => { each.since = since; return since + 0.8 * each.takes; }, at);
      this.ask();
    }

    ask() {
      this.asked ??= requestAnimationFrame((now) => { this.asked = null; this.step(now); });
    }

    step(now) {
      const begun = performance.now();
      if (!this.root.isConnected) { this.size.disconnect(); return; }
      let moving = false;
      for (const each of this.moves ?? []) {
        const t = clamp((now - each.since) / each.takes, 0, 1);
        this.pose[each.key] = mix(each.from, each.to, ease(t));
        moving ||= t < 1;
      }
      if (this.target) {
        const t = clamp((now - this.target.since) / 250, 0, 1);
        this.width = mix(this.target.from, this.target.to, ease(t));
        if (t >= 1) this.target = null;
        else moving = true;
        this.settle();
      }
      shown.pose = {...this.pose};
      shown.moving = moving;
      shown.frames += 1;
      this.draw();
      shown.spent += performance.now() - begun;
      if (moving) this.ask();
      else this.moves = [];
    }

    measure() {
      const ratio = window.devicePixelRatio || 1;
      for (const canvas of [this.sky, this.strip]) {
        canvas.width = Math.round(canvas.clientWidth * ratio);
        canvas.height = Math.round(canvas.clientHeight * ratio);
        canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
      }
      this.draw();
    }

    // Numbers

    beyond(width) {
      const {kept} = this.data.blocks[this.place], at = width / this.data.size * (kept.length - 1);
      const low = Math.min(Math.floor(at), kept.length - 2);
      return 1 - mix(kept[low], kept[low + 1], at - low);
    }

    perplexity(width) {
      const {stops, cost, labels} = this.data;
      if (cost) {
        const here = this.data.width - 0.5 < this.width && this.width < this.data.width + 0.5;
        return here ? [cost.value, true, cost.note] : ["…", false, labels.open];
      }
      const exact = stops.find((each) => Math.abs(each[0] - width) < 0.5);
      if (exact) return [exact[1].toFixed(2), true, labels.perplexity];
      const after = stops.findIndex((each) => each[0] < width);
      if (after < 1) return [stops.at(after).at(1).toFixed(2), false, labels.between];
      const [a, b] = [stops[after - 1], stops[after]];
      const t = (a[0] - width) / (a[0] - b[0]);
      return [Math.exp(mix(Math.log(a[1]), Math.log(b[1]), t)).toFixed(1), false, labels.between];
    }

    // Drawing

    draw() {
      if (!this.sky.clientWidth) return;
      const {size, labels} = this.data;
      const now = mix(size, this.width, this.pose.cut);
      const asked = this.stage !== "cut" ? size : this.data.cost ? this.width : now;
      if (this.counters.perplexity) {
        const [value, measured, note] = this.perplexity(asked);
        this.write("perplexity", value, note);
        this.counters.perplexity.value.classList.toggle("passing", !measured);
      }
      this.write("energy", share(1 - this.pose.cut * this.beyond(this.width)), labels.energy);
      this.write("width", String(Math.round(now)), `${labels.of} ${size} ${labels.width}`);
      this.drawSky();
      this.drawStrip();
    }

    write(name, value, note) {
      const counter = this.counters[name];
      if (counter.value.textContent !== value) counter.value.textContent = value;
      if (counter.note.textContent !== note) counter.note.textContent = note;
    }

    // Where a point is seen, in units of the cloud: across, up, and how much larger by being near.
    seen(x, y, z) {
      const {reach} = this.data.blocks[this.place];
      const az = -0.55, el = 0.4, ca = Math.cos(az), sa = Math.sin(az), ce = Math.cos(el), se = Math.sin(el);
      const across = ca * x - sa * y, deep = sa * x + ca * y;
      const near = 1 / (1 + 0.16 * (deep * ce - z * se) / reach);
      return [across * near, (z * ce + deep * se) * near, near];
    }

    // The ends of what is seen before the turn and after it, with the box of what is cut: one scale for all
    // stages, or the turn would seem to change distances. Tokens far out of the cloud would press it together.
    ends(thick) {
      const {points, reach, bounds: [[x0, x1], [y0, y1]]} = this.data.blocks[this.place], half = 1.8 * thick;
      const box = [x0, x1].flatMap((x) => [y0, y1].flatMap((y) => [-half, half].map((z) => [x, y, z])));
      const askew = rotation(1.15), whole = points.map(([x, y, z]) => [x, y, thick * z]);
      const near = whole.filter((at) => 1.5 * reach > Math.hypot(...at));
      const turned = near.map((at) => this.seen(...askew.map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2])));
      const places = [...box, ...near].map((at) => this.seen(...at));
      return [0, 1].flatMap((axis) => {
        const sorted = turned.map((at) => at[axis]).sort((a, b) => a - b), few = Math.floor(sorted.length / 50);
        const all = [...places.map((at) => at[axis]), ...sorted.slice(few, sorted.length - few)];
        return [Math.min(...all), Math.max(...all)];
      });
    }

    camera(wide, high, thick) {
      const key = `${this.place} ${thick}`;
      if (this.fitted !== key) [this.fitted, this.fit] = [key, this.ends(thick)];
      const [left, right, low, top] = this.fit, words = this.type(wide) * 1.7, edge = 12;
      const zoom = Math.min((wide - 2 * edge) / (right - left), (high - words - edge) / (top - low));
      const [x0, y0] = [wide / 2 - zoom * (left + right) / 2, (high + words - edge) / 2 + zoom * (low + top) / 2];
      return (...at) => {
        const [across, up, near] = this.seen(...at);
        return [x0 + zoom * across, y0 - zoom * up, near];
      };
    }

    // Pixels of the letters in the picture.
    type(wide) {
      return this.beside ? 15 : clamp(wide / 55, 14, 22);
    }

    drawSky() {
      const {colours, tokens, labels, size} = this.data, {points, named, reach} = this.data.blocks[this.place];
      const context = this.sky.getContext("2d"), {clientWidth: wide, clientHeight: high} = this.sky;
      const thick = Math.sqrt(this.beyond(this.stage === "cut" ? this.width : this.data.width));
      const widest = Math.max(thick, Math.sqrt(this.beyond(this.data.width)));
      const look = this.camera(wide, high, widest), turn = rotation(1.15 * (1 - this.pose.turn));
      const flat = 1 - this.pose.cut;
      const at = (x, y, z) => look(...turn.map((row) => row[0] * x + row[1] * y + row[2] * z));
      const line = (from, to) => {
        context.beginPath();
        context.moveTo(from[0], from[1]);
        context.lineTo(to[0], to[1]);
        context.stroke();
      };
      context.clearRect(0, 0, wide, high);
      context.lineCap = "round";
      // The axes that the weights are written in stay where they are; the cloud turns.
      context.strokeStyle = colours.faint;
      context.lineWidth = 1.5;
      for (let axis = 0; axis < 3; axis += 1) {
        const end = [0, 0, 0];
        end[axis] = (axis === 2 ? 0.6 : 1.1) * reach;
        line(look(...end.map((x) => -x)), look(...end));
      }
      this.drawSlab(context, at, 1.8 * thick);
      context.lineWidth = 3;
      context.strokeStyle = colours.axis;
      const axes = [[0.9 * reach, 0, 0], [0, 0.9 * reach, 0], [0, 0, Math.max(2.4 * thick * flat, 0.001)]];
      for (const [place, end] of axes.entries()) {
        context.strokeStyle = place === 2 ? colours.cut : colours.axis;
        if (place === 2 && flat < 0.02) continue;
        line(at(...end.map((x) => -x)), at(...end));
      }
      // What every token loses is a line from where it was to where it is.
      if (this.pose.cut > 0.01) {
        context.strokeStyle = colours.lost;
        context.lineWidth = 1;
        context.beginPath();
        for (const [x, y, z] of points) {
          const was = at(x, y, thick * z), is = at(x, y, thick * flat * z);
          context.moveTo(was[0], was[1]);
          context.lineTo(is[0], is[1]);
        }
        context.stroke();
      }
      const radius = clamp(wide / 260, 2.6, 5);
      const seen = points.map(([x, y, z]) => at(x, y, thick * flat * z));
      context.globalAlpha = 0.8;
      for (const [x, y, near] of seen) {
        const half = radius * near;
        // A token that lies too far out to be seen is left out whole: half a dot at the edge would look cut off.
        if (Math.min(x, y) - half < 0 || x + half > wide || y + half > high) continue;
        context.drawImage(this.dot, x - half, y - half, 2 * half, 2 * half);
      }
      context.globalAlpha = 1;
      this.drawWords(context, seen, named, wide, high);
      if (this.pose.shade > 0.5) {
        const cut = Math.round(size - this.width);
        this.say(context, `${cut} ${labels.thin} ${share(this.beyond(this.width))} ${labels.held}`, [wide / 2, 20], wide, colours.cutInk, true);
      }
    }

    drawSlab(context, at, half) {
      if (this.pose.shade < 0.01) return;
      const {colours} = this.data, flat = 1 - 0.97 * this.pose.cut;
      const [[x0, x1], [y0, y1]] = this.data.blocks[this.place].bounds;
      const corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
      const face = (fill, places) => {
        context.fillStyle = fill;
        context.beginPath();
        places.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.closePath();
        context.fill();
      };
      context.globalAlpha = this.pose.shade;
      const [lower, upper] = [-half * flat, half * flat].map((z) => corners.map(([x, y]) => at(x, y, z)));
      face(colours.slab, lower);
      face(colours.slab, upper);
      context.strokeStyle = colours.cut;
      context.lineWidth = 1.5;
      context.beginPath();
      for (const side of [lower, upper]) {
        side.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.closePath();
      }
      corners.forEach((_, index) => {
        context.moveTo(...lower[index].slice(0, 2));
        context.lineTo(...upper[index].slice(0, 2));
      });
      context.stroke();
      context.globalAlpha = 1;
    }

    drawWords(context, seen, named, wide, high) {
      const {colours, tokens} = this.data;
      const taken = [], size = 0.85 * this.type(wide);
      context.font = `400 ${size}px ${this.family}`;
      for (const index of named) {
        const [x, y] = seen[index], half = context.measureText(tokens[index]).width / 2 + 3;
        // Above its dot, right, left or below: where it lies over no word and over the fewest dots.
        const spots = [[x, y - 12], [x + half + 8, y + 0.35 * size], [x - half - 8, y + 0.35 * size], [x, y + size + 9]];
        const hidden = spots.map(([at, base]) => {
          const within = ([a, b], more) => Math.abs(a - at) < half + more && b > base - size - more && base + 4 + more > b;
          const words = taken.some(([a, b, other]) => Math.abs(a - at) < half + other && Math.abs(b - base) < 1.2 * size);
          const out = at - half < 0 || at + half > wide || base - size < 0 || base + 4 > high;
          return words || out ? Infinity : seen.filter((dot) => within(dot, 3)).length;
        });
        const least = Math.min(...hidden);
        if (least > 1) continue;
        const [at, base] = spots[hidden.indexOf(least)];
        taken.push([at, base, half]);
        this.say(context, tokens[index], [at, base], wide, colours.label, false);
      }
      if (!this.pointer) return;
      const far = seen.map(([x, y]) => Math.hypot(x - this.pointer[0], y - this.pointer[1]));
      const index = far.indexOf(Math.min(...far));
      if (far[index] > 24) return;
      const [x, y] = seen[index];
      context.strokeStyle = colours.ink;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 8, 0, 7);
      context.stroke();
      this.say(context, tokens[index], [x, y - 16], wide, colours.ink, true);
    }

    say(context, text, [x, y], wide, colour, boxed) {
      const size = this.type(wide);
      context.font = `${boxed ? 600 : 400} ${boxed ? size : 0.85 * size}px ${this.family}`;
      context.textAlign = "center";
      const half = context.measureText(text).width / 2 + 6;
      const at = clamp(x, half, Math.max(half, wide - half));
      y = clamp(y, size, this.sky.clientHeight - 0.35 * size);
      if (boxed) {
        context.fillStyle = this.data.colours.paper;
        context.globalAlpha = 0.85;
        context.fillRect(at - half, y - size, 2 * half, 1.35 * size);
        context.globalAlpha = 1;
      }
      if (!boxed) {
        context.strokeStyle = this.data.colours.paper;
        context.lineWidth = 4;
        context.strokeText(text, at, y);
      }
      context.fillStyle = colour;
      context.fillText(text, at, y);
    }

    drawStrip() {
      const {colours, size, labels, stops} = this.data, {principal, own} = this.data.blocks[this.place];
      const context = this.strip.getContext("2d"), {clientWidth: wide, clientHeight: high} = this.strip;
      context.clearRect(0, 0, wide, high);
      const type = this.beside ? 14 : clamp(wide / 60, 13, 20), top = type + 8, base = high - 2, room = base - top;
      const low = Math.min(...principal, ...own), span = Math.max(...principal, ...own) - low;
      const step = wide / principal.length;
      const gone = mix(size, this.width, this.pose.shade) / size * wide;
      principal.forEach((share, index) => {
        const level = (mix(own[index], share, this.pose.turn) - low) / span;
        const x = index * step, lost = x + step / 2 > gone;
        const tall = (0.02 + 0.98 * level) * room * (lost ? 1 - this.pose.cut : 1);
        context.fillStyle = lost ? colours.cut : colours.point;
        context.fillRect(x, base - tall, Math.max(step - (step > 3 ? 1 : 0), 0.5), tall);
      });
      if (this.pose.shade > 0) {
        context.fillStyle = colours.slab;
        context.globalAlpha = this.pose.shade;
        context.fillRect(gone, top, wide - gone, room);
        context.fillStyle = colours.cutInk;
        context.fillRect(gone - 1, top, 2, room);
        context.globalAlpha = 1;
      }
      if (this.stage === "cut") {
        context.fillStyle = colours.ink;
        for (const [width] of stops) {
          context.beginPath();
          context.arc(clamp(width / size * wide, 4, wide - 4), base - 4, 3, 0, 7);
          context.fill();
        }
      }
      this.drawScale(context, wide, (decade) => base - (0.02 + 0.98 * (decade - low) / span) * room, low, low + span);
      context.font = `400 ${type}px ${this.family}`;
      context.textAlign = "left";
      context.fillStyle = colours.label;
      context.fillText(this.pose.turn > 0.5 ? labels.principal : labels.own, 0, type);
      if (this.stage === "cut") {
        context.textAlign = "right";
        context.fillStyle = colours.cutInk;
        const hint = wide > 600 ? labels.hint : "";
        context.fillText(hint, wide, type);
      }
    }

    // The axis of the energies: a line and its share at the highest and at the lowest power of ten.
    drawScale(context, wide, level, low, high) {
      const {colours} = this.data, type = this.beside ? 12 : clamp(wide / 85, 12, 16);
      context.font = `400 ${type}px ${this.family}`;
      context.textAlign = "right";
      context.lineJoin = "round";
      for (const decade of [...new Set([Math.floor(high), Math.ceil(low)])]) {
        const y = level(decade), text = `${Number((100 * 10 ** decade).toPrecision(1))}\u00a0%`;
        context.strokeStyle = colours.faint;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(0, y);
        context.lineTo(wide, y);
        context.stroke();
        context.strokeStyle = colours.paper;
        context.lineWidth = 3;
        const base = y + (decade === Math.ceil(low) ? -4 : type);
        context.strokeText(text, wide - 4, base);
        context.fillStyle = colours.ink;
        context.fillText(text, wide - 4, base);
      }
    }
  }

  for (const root of document.querySelectorAll(".slicescope-cloud:not([data-begun])")) {
    root.dataset.begun = "1";
    new Cloud(root);
  }
})();

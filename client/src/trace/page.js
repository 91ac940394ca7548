"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const view = document.getElementById("view");
  const told = document.getElementById("told");
  const pen = view.getContext("2d");
  const colours = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#8a6d3b", "#999999",
  ];
  const states = ["", "failed", "running"];
  // A slice: start, load, run, store, kind, state, error, wait, number of its task.
  const SIZE = 9, ROW = 18, BAR = 14, LEFT = 130, AXIS = 22;
  const lanes = data.lanes;
  const colour = (kind) => colours[Math.min(kind, colours.length - 1)];
  const start = (lane, at) => lane.slices[at * SIZE];
  const busy = (lane, at) => {
    const s = lane.slices, i = at * SIZE;
    return s[i + 1] + s[i + 2] + s[i + 3];
  };
  let first = Infinity, last = 0;
  for (const lane of lanes) {
    lane.count = lane.slices.length / SIZE;
    if (lane.count === 0) continue;
    first = Math.min(first, start(lane, 0));
    last = Math.max(last, start(lane, lane.count - 1) + busy(lane, lane.count - 1));
  }
  if (first > last) first = last = 0;
  const whole = Math.max(last - first, 1);
  let from = first, span = whole, top = 0, width = 0, height = 0;

  const time = (us) => {
    if (us < 1e3) return `${Math.round(us)} us`;
    if (us < 1e6) return `${+(us / 1e3).toPrecision(4)} ms`;
    return `${+(us / 1e6).toPrecision(6)} s`;
  };
  // A time on the axis, in as many digits as tell it from the next one.
  const tick = (us, step) => {
    const unit = us < 1e3 ? 1 : us < 1e6 ? 1e3 : 1e6;
    const digits = Math.max(0, Math.ceil(-Math.log10(step / unit)));
    return `${+(us / unit).toFixed(digits)} ${{ 1: "us", 1e3: "ms", 1e6: "s" }[unit]}`;
  };
  const x = (us) => LEFT + ((us - from) / span) * (width - LEFT);
  const moment = (px) => from + ((px - LEFT) / (width - LEFT)) * span;

  // The first slice that ends after a moment.
  const firstAfter = (lane, us) => {
    let low = 0, high = lane.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (start(lane, middle) + busy(lane, middle) < us) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  const drawLane = (lane, y, style) => {
    pen.fillStyle = style.ink;
    pen.fillText(lane.name.slice(0, 18), 0, y + 11);
    let drawn = -1;
    for (let at = firstAfter(lane, from); at < lane.count; at++) {
      const s = lane.slices, i = at * SIZE;
      if (s[i] > from + span) break;
      const left = Math.max(x(s[i]), LEFT), right = Math.min(x(s[i] + busy(lane, at)), width);
      const isBad = s[i + 5] === 1;
      // What is narrower than half a pixel is drawn once, unless it has failed.
      if (right - drawn < 0.5 && !isBad) continue;
      const wide = Math.max(right - left, 0.5);
      pen.fillStyle = colour(s[i + 4]);
      pen.globalAlpha = s[i + 5] === 2 ? 0.5 : 1;
      pen.fillRect(left, y, wide, BAR);
      pen.globalAlpha = 1;
      if (wide > 6) {
        pen.fillStyle = "rgba(0, 0, 0, 0.35)";
        const run = Math.max(x(s[i] + s[i + 1]), LEFT), store = x(s[i] + s[i + 1] + s[i + 2]);
        if (run > left) pen.fillRect(left, y, Math.min(run, right) - left, BAR);
        if (store < right) pen.fillRect(Math.max(store, left), y, right - Math.max(store, left), BAR);
      }
      if (isBad) {
        pen.fillStyle = style.bad;
        pen.fillRect(Math.max(right - 2, left), y - 2, 2, BAR + 4);
      }
      drawn = right;
    }
  };

  const drawAxis = (style) => {
    const least = span / Math.max((width - LEFT) / 110, 1);
    const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
    const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= least) || power * 10;
    for (let at = Math.ceil((from - first) / step) * step; at <= from - first + span; at += step) {
      const px = x(first + at);
      pen.fillStyle = style.line;
      pen.fillRect(px, AXIS - 4, 1, height);
      pen.fillStyle = style.dim;
      pen.fillText(tick(at, step), px + 3, 11);
    }
  };

  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    const style = {};
    for (const name of ["ink", "dim", "line", "bad"]) style[name] = css.getPropertyValue(`--${name}`);
    const scale = window.devicePixelRatio || 1;
    [width, height] = [view.clientWidth, view.clientHeight];
    [view.width, view.height] = [width * scale, height * scale];
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "12px system-ui, sans-serif";
    drawAxis(style);
    top = Math.max(0, Math.min(top, lanes.length * ROW - (height - AXIS)));
    for (let row = Math.floor(top / ROW); row < lanes.length; row++) {
      const y = AXIS + row * ROW - top;
      if (y > height) break;
      if (y >= AXIS - 1) drawLane(lanes[row], y, style);
    }
  };
  let isWaiting = false;
  const redraw = () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => {
      isWaiting = false;
      draw();
    });
  };

  const zoom = (factor, at) => {
    const next = Math.min(Math.max(span * factor, 10), whole);
    from = at - ((at - from) / span) * next;
    span = next;
    move(0, 0);
  };
  const move = (px, py) => {
    from -= (px / Math.max(width - LEFT, 1)) * span;
    from = Math.max(first, Math.min(from, first + whole - span));
    top -= py;
    redraw();
  };

  const tell = (event) => {
    const row = Math.floor((event.offsetY - AXIS + top) / ROW);
    const lane = event.offsetY > AXIS ? lanes[row] : undefined;
    const us = moment(event.offsetX);
    let words = "\u00a0";
    if (lane && event.offsetX >= LEFT) {
      // Short ones are hit by a pixel or two beside them.
      const near = (2 * span) / Math.max(width - LEFT, 1);
      const at = firstAfter(lane, us - near), s = lane.slices, i = at * SIZE;
      if (at < lane.count && s[i] <= us + near) {
        const error = s[i + 6] > 0 ? ` (${data.errors[s[i + 6] - 1]})` : "";
        words = `${data.kinds[s[i + 4]]}, task ${s[i + 8]}: at ${time(s[i] - first)}, waited ` +
          `${time(s[i + 7])}, load ${time(s[i + 1])}, run ${time(s[i + 2])}, store ` +
          `${time(s[i + 3])} ${states[s[i + 5]]}${error}`;
      }
    }
    told.textContent = words;
  };

  let held = null;
  view.addEventListener("pointerdown", (event) => {
    held = [event.offsetX, event.offsetY];
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (held) {
      move(event.offsetX - held[0], event.offsetY - held[1]);
      held = [event.offsetX, event.offsetY];
    } else tell(event);
  });
  for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, () => held = null);
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 400), moment(Math.max(event.offsetX, LEFT)));
  }, { passive: false });
  const keys = {
    "+": () => zoom(0.5, from + span / 2),
    "-": () => zoom(2, from + span / 2),
    "0": () => zoom(Infinity, from),
    ArrowLeft: () => move(100, 0),
    ArrowRight: () => move(-100, 0),
    ArrowUp: () => move(0, ROW),
    ArrowDown: () => move(0, -ROW),
  };
  view.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const table = document.getElementById("kinds");
  const line = (cells, name, kind) => {
    const row = table.insertRow();
    cells.forEach((cell, place) => {
      const made = row.appendChild(document.createElement(name));
      if (place === 0 && kind !== undefined) {
        const swatch = made.appendChild(document.createElement("span"));
        swatch.className = "swatch";
        swatch.style.background = colour(kind);
      }
      made.append(cell);
    });
  };
  line(["kind", "tasks", "failed", "run", "load and store"], "th");
  data.kinds.forEach((kind, place) => {
    const [tasks, failed, run, other] = data.sums[place];
    line([kind, `${tasks}`, `${failed}`, time(run), time(other)], "td", place);
  });
  draw();
})();

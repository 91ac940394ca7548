// The timeline: a row for each engine, a box for each task. The server merges what is too short to
// be told apart, so that a hundred thousand tasks are a few thousand boxes.

import { ask, farm, kindName } from "./feed.js";
import { colour, el, put } from "./dom.js";
import { count, time } from "./words.js";
import { table } from "./table.js";

const [ROW, GAP, LEFT, TOP] = [18, 4, 110, 20];
const SPANS = { "10 s": 10e6, "1 min": 60e6, "5 min": 300e6, "30 min": 1800e6, "3 h": 10800e6 };

export function timeline() {
  let [span, end, skip] = [60e6, null, 0];
  let got = null;
  let drag = null;
  const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": "Tasks of each engine over time; the table below has the same" });
  const sum = el("p", { class: "soft" });
  const hover = el("p", { class: "soft" });
  const key = el("div", { class: "key" });
  const select = el("select", { "aria-label": "Length" }, Object.keys(SPANS).map((name) => el("option", { selected: name === "1 min" }, name)));
  select.addEventListener("change", () => {
    span = SPANS[select.value];
    update();
  });
  const button = (text, act) => el("button", { type: "button", onclick: act }, text);
  const node = el("section", null, el("h1", null, "Timeline"),
    el("div", { class: "filters" }, select,
      button("◀ earlier", () => move(-0.5)), button("later ▶", () => move(0.5)),
      button("+ zoom in", () => zoom(0.5)), button("- zoom out", () => zoom(2)),
      button("now", () => { end = null; update(); }),
      button("▲ engines", () => page(-1)), button("engines ▼", () => page(1))),
    sum, canvas, key, hover);
  const rows = table({ caption: "", key: (it) => it.engine, columns: [
    { name: "engine", num: true, get: (it) => it.engine, by: (it) => it.engine },
    { name: "host", get: (it) => it.host, by: (it) => it.host },
    { name: "tasks", num: true, get: (it) => count(it.tasks), by: (it) => it.tasks },
    { name: "busy", num: true, get: (it) => `${Math.round(100 * it.busy)} %`, by: (it) => it.busy },
    { name: "boxes with failures", num: true, get: (it) => count(it.failed), by: (it) => it.failed },
    { name: "longest", get: (it) => (it.longest ? `${kindName(it.longest[2])}, ${time(it.longest[1] - it.longest[0])}` : "-") },
  ] });
  const twin = el("details", { ontoggle: () => drawTable() }, el("summary", null, "The timeline as a table"), rows.node);
  node.append(twin);

  const until = () => (end === null ? farm.at_us : end);
  function move(part) {
    end = Math.min(farm.at_us, until() + part * span);
    if (end >= farm.at_us) end = null;
    update();
  }
  function zoom(factor, at = 0.5) {
    const middle = until() - span * (1 - at);
    const before = span;
    span = Math.min(86400e6, Math.max(1e4, span * factor));
    if (end !== null || factor < 1) end = middle + ((until() - middle) / before) * span;
    if (end >= farm.at_us) end = null;
    update();
  }
  function page(by) {
    skip = Math.max(0, skip + by * 100);
    update();
  }

  const x = (us, width) => LEFT + ((us - (until() - span)) / span) * (width - LEFT);

  function draw() {
    if (!got || got.error) return;
    const width = node.clientWidth || 900;
    const height = TOP + got.rows.length * (ROW + GAP) + 6;
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const [text, line, bad, ink] = ["--text", "--line", "--bad", "--onkind"].map(colour);
    const kinds = Array.from({ length: 8 }, (_, at) => colour(`--kind${at}`));
    for (let at = 0; at <= 4; at++) {
      const here = LEFT + ((width - LEFT) * at) / 4;
      pen.fillStyle = line;
      pen.fillRect(here, TOP - 4, 1, height);
      pen.fillStyle = text;
      pen.textAlign = at === 4 ? "right" : "left";
      const before = farm.at_us - until() + span * (1 - at / 4);
      pen.fillText(before < span / 1000 ? "now" : `-${time(before)}`, here, 8);
    }
    pen.textAlign = "left";
    got.rows.forEach((row, at) => {
      const y = TOP + at * (ROW + GAP);
      pen.fillStyle = text;
      pen.fillText(`${row.host} e${row.engine}`.slice(-16), 2, y + ROW / 2);
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, y, width - LEFT, ROW);
      pen.clip();
      for (const [from, to, kind, flags, many] of row.blocks) {
        const [a, b] = [x(from, width), x(to, width)];
        const wide = Math.max(1, b - a);
        pen.fillStyle = kinds[kind % 8];
        pen.globalAlpha = flags & 2 ? 0.6 : 1;
        pen.fillRect(a, y, wide, ROW);
        pen.globalAlpha = 1;
        if (flags & 1) {
          pen.fillStyle = bad;
          pen.fillRect(a, y + ROW - 5, Math.max(2, wide), 5);
        }
        if (wide > 3) {
          pen.fillStyle = ink;
          pen.fillRect(b - 1, y, 1, ROW);
        }
        if (wide > 34) {
          // What runs is half seen through, so that its box is near the page's own colour.
          pen.fillStyle = flags & 2 ? text : ink;
          const label = `${flags & 1 ? "✗ " : ""}${kindName(kind)}${many > 1 ? ` x ${many}` : ""}`;
          pen.fillText(label.slice(0, Math.floor(wide / 6)), Math.max(a, LEFT) + 3, y + ROW / 2);
        }
      }
      pen.restore();
    });
  }

  // The colours by name; in the boxes are names as well, where there is room.
  function drawKey() {
    const shown = new Set(got.rows.flatMap((row) => row.blocks.map((it) => it[2])));
    put(key, [...shown].sort((a, b) => a - b).slice(0, 24).map((kind) => {
      const mark = el("i");
      mark.style.background = `var(--kind${kind % 8})`;
      return el("span", null, mark, kindName(kind));
    }), el("span", { class: "soft" }, "a bar at the foot: failed; pale: runs"));
  }

  function drawTable() {
    if (!twin.open || !got || got.error) return;
    rows.update(got.rows.map((row) => {
      const long = row.blocks.reduce((best, it) => (!best || it[1] - it[0] > best[1] - best[0] ? it : best), null);
      return {
        engine: row.engine, host: row.host, longest: long,
        tasks: row.blocks.reduce((all, it) => all + it[4], 0),
        busy: Math.min(1, row.blocks.reduce((all, it) => all + it[1] - it[0], 0) / span),
        failed: row.blocks.filter((it) => it[3] & 1).length,
      };
    }));
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const row = got && got.rows && got.rows[Math.floor((event.clientY - box.top - TOP) / (ROW + GAP))];
    const us = until() - span + ((event.clientX - box.left - LEFT) / (box.width - LEFT)) * span;
    const near = span / 1000;
    return row ? row.blocks.find((it) => it[0] - near <= us && us <= it[1] + near) : null;
  }
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, end: until(), moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && event.buttons) {
      const moved = event.clientX - drag.x;
      if (Math.abs(moved) > 3) drag.moved = true;
      end = Math.min(farm.at_us, drag.end - (moved / (canvas.clientWidth - LEFT)) * span);
      draw();
      return;
    }
    const block = at(event);
    hover.textContent = block
      ? `${kindName(block[2])}: ${block[4] > 1 ? `${count(block[4])} tasks within ` : ""}${time(block[1] - block[0])}`
        + `${block[3] & 1 ? ", failed" : ""}${block[3] & 2 ? ", runs" : ""}${block[5] ? `, ${block[5]}` : ""}`
      : "Drag to move, wheel or + and - to zoom, click a box to open its task.";
  });
  canvas.addEventListener("pointerup", (event) => {
    const block = drag && !drag.moved ? at(event) : null;
    const moved = drag && drag.moved;
    drag = null;
    if (block && block[5]) location.hash = `#/task/${block[5]}`;
    else if (moved) update();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, (event.offsetX - LEFT) / (canvas.clientWidth - LEFT));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const acts = { "+": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25) };
    if (acts[event.key]) {
      event.preventDefault();
      acts[event.key]();
    }
  });

  let asking = false;
  async function update() {
    if (asking || drag || !farm.at_us) return;
    asking = true;
    const [from, to] = [Math.max(0, Math.round(until() - span)), Math.round(until())];
    const answer = await ask("timeline", { from_us: from, to_us: to, width: Math.max(1, Math.round((node.clientWidth || 900) - LEFT)), skip });
    asking = false;
    got = answer;
    if (answer.error) {
      put(sum, answer.error);
      return;
    }
    put(sum, `${time(span)}: ${count(answer.tasks)} tasks that have ended, of ${count(farm.ends.kept)} known here`
      + `${farm.ends.missed ? `; ${count(farm.ends.missed)} were missed` : ""}. ${count(answer.rows.length)} of ${count(answer.engines)} engines are shown.`);
    draw();
    drawKey();
    drawTable();
  }
  return { node, update };
}

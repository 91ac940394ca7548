// Small charts: a line of the last minute, a bar of phases, lines over time.

import { el, put, svg } from "./dom.js";
import { count, share, time } from "./words.js";
import { twin } from "./table.js";

export function spark(values, name) {
  const max = Math.max(1, ...values);
  const step = 200 / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(34 - (32 * value) / max).toFixed(1)}`);
  return svg("svg", { viewBox: "0 0 200 36", preserveAspectRatio: "none", role: "img", "aria-label": name },
    svg("polyline", { points: points.join(" "), fill: "none", stroke: "var(--run)", "stroke-width": 1.5 }));
}

const words = (phase) => phase.replace("_", " ");

// Phases: [name, microseconds]. A bar, a key, and the table.
export function phases(label) {
  const bar = el("div", { class: "bar", role: "img" });
  const key = el("div", { class: "key" });
  const rows = twin(`${label} as a table`, [
    { name: "phase", get: (it) => it[0], by: (it) => it[0] },
    { name: "time", num: true, get: (it) => time(it[1]), by: (it) => it[1] },
    { name: "share", num: true, get: (it) => it[2] },
  ]);
  return {
    node: el("div", null, bar, key, rows.node),
    update(parts) {
      const all = parts.reduce((sum, part) => sum + part[1], 0);
      bar.setAttribute("aria-label",
        `${label}: ${parts.map(([name, us]) => `${words(name)} ${share(us, all)}`).join(", ")}`);
      put(bar, parts.map(([name, us]) => {
        const part = el("span", { class: `p-${name}`, title: `${words(name)} ${time(us)}` });
        part.style.width = all ? `${(100 * us) / all}%` : "0";
        return part;
      }));
      put(key, parts.map(([name, us]) =>
        el("span", null, el("i", { class: `p-${name}` }), `${words(name)} ${share(us, all)}, ${time(us)}`)));
      rows.update(parts.map(([name, us]) => [words(name), us, share(us, all)]));
    },
  };
}

// Lines over time: series of { name, colour, values }, all of the same length.
export function lines(label, unit) {
  const box = el("div", { class: "chart" });
  const rows = twin(`${label} as a table`, [
    { name: "time", get: (it) => it[0], by: (it) => it[2] },
    { name: "figures", get: (it) => it[1] },
  ]);
  return {
    node: el("figure", { "aria-label": label }, box, rows.node),
    update(times, series) {
      const all = series.flatMap((it) => it.values);
      const max = Math.max(1, ...all);
      const [wide, high] = [1000, 130];
      const step = wide / Math.max(1, times.length - 1);
      const drawn = series.map((it) =>
        svg("polyline", {
          points: it.values.map((value, at) => `${(at * step).toFixed(1)},${(high - (high * value) / max).toFixed(1)}`).join(" "),
          fill: "none", stroke: `var(${it.colour})`, "stroke-width": 2,
          "stroke-dasharray": it.dash, "vector-effect": "non-scaling-stroke",
        }));
      put(box,
        el("div", { class: "key" }, el("span", { class: "soft" }, `0 to ${count(Math.round(max))} ${unit}`),
          series.map((it) => {
            const mark = el("i");
            mark.style.background = `var(${it.colour})`;
            return el("span", null, mark, it.name);
          })),
        svg("svg", { viewBox: `0 -4 ${wide} ${high + 8}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, drawn));
      const now = times.length ? times[times.length - 1] : 0;
      rows.update(times.map((at, row) => [
        `${time((now - at) * 1e6)} ago`,
        series.map((it) => `${it.name} ${count(Math.round(it.values[row]))}`).join(", "), at]));
    },
  };
}

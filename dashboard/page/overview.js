// The first page: whether it runs, how long it will take, where the time goes, what is wrong.

import { ask, farm } from "./feed.js";
import { el, put } from "./dom.js";
import { ago, bytes, count, left } from "./words.js";
import { lines, phases, spark } from "./charts.js";
import { kindsTable } from "./lists.js";
import { twin } from "./table.js";

const STEPS = { "10 min": "1s", "3 h": "10s", "1 day": "1min" };

function verdict() {
  const it = farm.farm;
  if (farm.cut) return `The broker is away: ${farm.cut}`;
  if (!it.engines.online) return "No engine is online.";
  const busy = `${it.engines.busy} of ${it.engines.online} engines run tasks`;
  const end = it.last_end_us === null ? "nothing has ended yet" : `last end ${ago(it.last_end_us, farm.at_us)}`;
  return `${busy}, ${end}.`;
}

// The page that has more about a note.
const MORE = {
  slow_engine: "engines", dying: "engines", stuck: "engines", set_aside: "engines",
  same_failure: "errors", memory: "owners", unread_results: "owners",
};

export function notesList(notes) {
  if (!notes.length) return el("p", { class: "soft" }, "Nothing is wrong.");
  return el("ul", { class: "notes" }, notes.map((note) =>
    el("li", null, "! ", withCode(note.says), " ", more(MORE[note.note] || "kinds"))));
}

// What stands between backticks is to be typed, or is a name.
const withCode = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", null, part) : part));

function more(page) {
  return el("a", { href: `#/${page}` }, `see ${page}`);
}

export function overview() {
  const said = el("p");
  const tiles = el("div", { class: "tiles" });
  const notes = el("div");
  const bar = phases("where the time went, last minute");
  const kinds = kindsTable("Kinds of tasks, those with most to do first", 10);
  const chart = lines("tasks over time", "tasks");
  const minute = twin("ends of the last minute as a table", [
    { name: "seconds ago", num: true, get: (it) => it[0], by: (it) => it[0] },
    { name: "ended", num: true, get: (it) => count(it[1]), by: (it) => it[1] },
  ]);
  let step = "1s";
  const select = el("select", { "aria-label": "Length of the chart", onchange: () => {
    step = STEPS[select.value];
    series();
  } }, Object.keys(STEPS).map((name) => el("option", null, name)));
  const node = el("section", null, el("h1", null, "Overview"), said, tiles, minute.node,
    el("h2", null, "Notes"), notes,
    el("h2", null, "Where the time goes"), bar.node,
    el("h2", null, "Over time ", select), chart.node,
    el("h2", null, "Kinds"), kinds.node);

  async function series() {
    const got = await ask("series", { step });
    if (got.error || !got.at_s.length) return;
    chart.update(got.at_s, [
      { name: "unfinished", colour: "--queue", values: got.unfinished },
      { name: "at engines", colour: "--run", values: got.assigned, dash: "6 3" },
      { name: "ended in a step", colour: "--deliver", values: got.ended },
      { name: "failed in a step", colour: "--bad", values: got.failed, dash: "2 3" },
    ]);
  }

  function tile(name, value, more, chart) {
    return el("div", { class: "tile" }, name, el("b", null, value), el("span", { class: "soft" }, more), chart);
  }

  return {
    node,
    update() {
      const it = farm.farm;
      if (!it) return;
      put(said, verdict());
      const [tasks, rate] = [it.tasks, it.ends_per_s];
      const last = rate.slice(-10).reduce((sum, n) => sum + n, 0) / Math.max(1, Math.min(10, rate.length));
      put(tiles,
        tile("running", `${count(it.engines.busy)} / ${count(it.engines.online)}`,
          `engines; ${count(it.engines.away)} away`),
        tile("waiting", count(tasks.waiting), `and ${count(tasks.held)} held; left ${left(it.left_us)}`),
        tile("ended", count(tasks.ended), `${count(Math.round(last))} a second`, spark(rate, "ends in each of the last 60 seconds")),
        tile("failed", count(tasks.failed), `${count(tasks.cancelled)} cancelled, ${count(tasks.retries)} retries`),
        tile("payloads", bytes(it.payload_bytes.held),
          `of ${bytes(it.payload_bytes.max)}; ${count(tasks.results_held)} results unread`));
      minute.update(rate.map((ended, at) => [rate.length - at, ended]));
      put(notes, notesList(farm.notes));
      const minuteTimes = it.minute;
      bar.update([
        ["held", minuteTimes.held_us], ["queue", minuteTimes.queue_us],
        ["way", minuteTimes.way_us + minuteTimes.began_us], ["load", minuteTimes.load_us],
        ["run", minuteTimes.run_us], ["store", minuteTimes.store_us]]);
      kinds.update();
      series();
    },
  };
}

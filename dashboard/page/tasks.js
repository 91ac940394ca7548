// Tasks: those that have ended lately, records of one's own, and one task.

import { ask, farm, kindName } from "./feed.js";
import { el, put } from "./dom.js";
import { ago, bytes, count, time } from "./words.js";
import { mark } from "./lists.js";
import { phases } from "./charts.js";
import { table } from "./table.js";
import { flame } from "./flame.js";

const PARTS = ["held", "queued", "on_engine", "loading", "running", "storing", "delivering"];
const SOURCES = { ended: "ended lately", unfinished: "unfinished, mine", kept: "kept records, mine" };
const STATES = ["", "not_ok", "succeeded", "failed", "cancelled"];

function option(value, text, chosen) {
  return el("option", { value, selected: value === chosen }, text);
}

const name = (it) => (it.kind_id === undefined ? it.name || it.runtime : kindName(it.kind_id));

export function tasks(query) {
  const source = el("select", { "aria-label": "Which tasks" },
    Object.entries(SOURCES).map(([value, text]) => option(value, text, query.get("source"))));
  const stateOf = el("select", { "aria-label": "State" },
    STATES.map((it) => option(it, { "": "any state", not_ok: "not succeeded" }[it] || it, query.get("state"))));
  const kind = el("select", { "aria-label": "Kind" });
  const engine = el("input", { "aria-label": "Engine", placeholder: "engine", size: 6, inputmode: "numeric", value: query.get("engine") || "" });
  const longer = el("input", { "aria-label": "Ran for longer than, in seconds", placeholder: "run > s", size: 6, inputmode: "decimal" });
  const label = el("input", { "aria-label": "Label, with * for any characters", placeholder: "label", size: 12 });
  const shown = el("p", { class: "soft" });
  let kindAsked = query.get("kind") || "";
  const fixed = { fingerprint: query.get("fingerprint"), error: query.get("error") };
  const inner = table({
    caption: "Tasks",
    key: (it) => it.task,
    sort: { name: "", down: false },
    columns: [
      { name: "task", get: (it) => el("a", { href: `#/task/${it.task}` }, it.task), by: (it) => it.task },
      { name: "kind", get: name, by: name },
      { name: "label", get: (it) => it.label || "-", by: (it) => it.label },
      { name: "state", get: (it) => mark(it.state), by: (it) => it.state },
      { name: "error", get: (it) => (it.error ? it.error.type || it.error.kind || it.error : "-") },
      { name: "engine", num: true, get: (it) => (it.engine === null ? "-" : it.engine), by: (it) => it.engine },
      { name: "attempts", num: true, get: (it) => count(it.attempts), by: (it) => it.attempts },
      { name: "queue", num: true, get: (it) => time(it.spans_us.queued), by: (it) => it.spans_us.queued },
      { name: "run", num: true, get: (it) => time(it.spans_us.running), by: (it) => it.spans_us.running },
      { name: "when", num: true, get: (it) => (it.at_us === undefined ? it.why || "-" : ago(it.at_us, farm.at_us)), by: (it) => it.at_us },
    ],
  });
  const controls = [source, stateOf, kind, engine, longer, label];
  const node = el("section", null, el("h1", null, "Tasks"), el("div", { class: "filters" }, controls), shown, inner.node);
  for (const control of controls) {
    control.addEventListener("input", () => {
      if (control === kind) kindAsked = kind.value;
      update();
    });
  }

  function drawKinds() {
    if (document.activeElement === kind) return;
    const all = [...farm.kinds.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    put(kind, option("", "any kind", kindAsked), all.map((it) => option(String(it.id), it.name, kindAsked)));
  }

  async function update() {
    drawKinds();
    const isEnded = source.value === "ended";
    for (const control of [stateOf, kind, engine, longer]) control.disabled = !isEnded;
    label.disabled = isEnded;
    const got = isEnded
      ? await ask("ends", { state: stateOf.value, kind: kindAsked, engine: engine.value,
          longer_us: longer.value ? Math.round(Number(longer.value) * 1e6) : "", ...fixed })
      : await ask("records", { ended: source.value === "kept", label: label.value });
    if (got.error) {
      shown.textContent = got.error;
      return;
    }
    shown.textContent = isEnded
      ? `${count(got.rows.length)} of ${count(got.matched)} that match are shown, of ${count(got.kept)} known here; `
        + `${count(farm.farm ? farm.farm.tasks.ended : 0)} have ended since the broker's start. Labels are in the records.`
      : `${count(got.rows.length)} records of this capability's owner${got.rows.length >= got.limit ? ", and there may be more" : ""}.`;
    inner.update(got.rows);
  }
  return { node, update };
}

export function task(id) {
  const facts = el("div");
  const bar = phases("where its time went");
  const attempts = table({ caption: "Attempts that ended without a result", columns: [
    { name: "attempt", num: true, get: (it) => it.number, by: (it) => it.number },
    { name: "engine", num: true, get: (it) => it.engine },
    { name: "given after", num: true, get: (it) => time(it.assigned_us) },
    { name: "took", num: true, get: (it) => time(it.ended_us - it.assigned_us) },
    { name: "came to", get: (it) => it.how },
  ] });
  const sampled = flame(() => ({ task: id }), () => id);
  const running = el("div", { hidden: true }, el("h2", null, "Where its code is"), sampled.node);
  const json = el("pre");
  const raw = el("details", null, el("summary", null, "The record as JSON"), json);
  const node = el("section", null, el("h1", null, "Task ", id), facts, bar.node, attempts.node, running, raw);

  async function update() {
    const got = await ask("task", { id });
    if (got.error || !(got.record || got.end)) {
      put(facts, el("p", { class: "warn" }, got.error
        || "Nothing is known of it here: it is another owner's, or it was not kept, and has been forgotten."));
      attempts.update([]);
      return;
    }
    const it = got.record || got.end;
    const pair = (term, value) => (value === null || value === undefined || value === "" ? null : [el("dt", null, term), el("dd", null, value)]);
    const sizes = it.bytes
      ? `${bytes(it.bytes.request)} of arguments, ${bytes(it.bytes.result)} of result, ${bytes(it.bytes.stdout)} on stdout, ${bytes(it.bytes.stderr)} on stderr`
      : `${bytes(it.request_bytes)} of arguments, ${bytes(it.result_bytes)} of result`;
    put(facts, el("dl", null,
      pair("kind", name(it)), pair("label", it.label), pair("state", mark(it.state)), pair("why", it.why),
      pair("engine", it.engine), pair("attempts", it.attempts), pair("bytes", sizes),
      pair("error", it.error ? it.error.type || it.error.kind || it.error : null),
      pair("output", [`An observer may not read it: `, el("code", null, `furlong result ${id}`),
        " shows that of a kept task, to its owner."])));
    bar.update(PARTS.filter((part) => it.spans_us[part]).map((part) => [part, it.spans_us[part]]));
    attempts.update((it.past || []).map((past, at) => ({ number: at + 1, ...past })));
    attempts.node.hidden = !(it.past && it.past.length);
    running.hidden = running.hidden && it.state !== "running";
    sampled.update();
    json.textContent = JSON.stringify(it, null, 2);
  }
  return { node, update };
}

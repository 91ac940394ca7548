// Kinds, engines, errors and owners.

import { farm, kindName } from "./feed.js";
import { el } from "./dom.js";
import { ago, bytes, count, left, share, state, time } from "./words.js";
import { table } from "./table.js";

export function mark(word) {
  const { text, kind } = state(word);
  return el("span", { class: kind }, text);
}

function meter(part, all) {
  const inner = el("span");
  inner.style.width = `${all ? Math.min(100, (100 * part) / all) : 0}%`;
  return el("span", { class: "meter", "aria-hidden": "true" }, inner);
}

const overhead = (kind) => kind.overhead.sum_us / Math.max(1, kind.overhead.sum_us + kind.run.sum_us);

export function kindsTable(caption, limit) {
  const inner = table({
    caption,
    sort: { name: "waiting", down: true },
    key: (it) => it.id,
    columns: [
      { name: "kind", get: (it) => el("a", { href: `#/tasks?kind=${it.id}` }, it.name), by: (it) => it.name },
      { name: "runtime", get: (it) => it.runtime, by: (it) => it.runtime },
      { name: "done", get: (it) => [meter(it.ended, it.submitted), ` ${count(it.ended)} / ${count(it.submitted)}`], by: (it) => it.ended },
      { name: "waiting", num: true, get: (it) => count(it.waiting), by: (it) => it.waiting },
      { name: "running", num: true, get: (it) => count(it.running), by: (it) => it.running },
      { name: "failed", num: true, get: (it) => el("span", { class: it.failed ? "bad" : null }, count(it.failed)), by: (it) => it.failed },
      { name: "run p50", num: true, get: (it) => time(it.run.p50_us), by: (it) => it.run.p50_us },
      { name: "p95", num: true, get: (it) => time(it.run.p95_us), by: (it) => it.run.p95_us },
      { name: "queue p50", num: true, get: (it) => time(it.queue.p50_us), by: (it) => it.queue.p50_us },
      { name: "overhead", title: "share of way, load and store in the time of tasks that have run", num: true,
        get: (it) => share(overhead(it), 1), by: overhead },
      { name: "retries", num: true, get: (it) => count(it.retries), by: (it) => it.retries },
      { name: "results", num: true, get: (it) => bytes(it.result_bytes), by: (it) => it.result_bytes },
      { name: "left", get: (it) => (it.waiting || it.running ? left(it.left_us) : "-"), by: (it) => (it.left_us ? it.left_us[1] : null) },
    ],
  });
  return {
    node: inner.node,
    update() {
      let rows = [...farm.kinds.values()];
      if (limit) {
        rows.sort((a, b) => b.waiting + b.running - a.waiting - a.running || b.run.sum_us - a.run.sum_us);
        rows = rows.slice(0, limit);
      }
      inner.update(rows);
    },
  };
}

export function kinds() {
  const inner = kindsTable("All kinds of tasks since the broker's start");
  return { node: el("section", null, el("h1", null, "Kinds"), inner.node), update: inner.update };
}

function pace(engine) {
  if (engine.pace_percent === null) return "-";
  const text = `${count(engine.pace_percent)} %`;
  return engine.pace_percent >= 200 ? el("span", { class: "bad" }, `! ${text}`) : text;
}

// An engine is asked every 5 s while somebody looks: one that has not answered for longer is marked.
function silence(engine) {
  if (!engine.load) return "-";
  const text = time(silentUs(engine));
  return silentUs(engine) >= 8e6 ? el("span", { class: "bad" }, `! ${text}`) : text;
}

const silentUs = (engine) => (engine.load ? farm.at_us - engine.load.heard_us : null);
const percent = (number) => (number === null || number === undefined ? "-" : `${count(number)} %`);
const machine = (engine) => (engine.load ? engine.load.machine : null);

export function engines() {
  const filter = el("input", { type: "search", "aria-label": "Filter by host, state or kind", placeholder: "filter: host, state, kind" });
  filter.addEventListener("input", () => update());
  const inner = table({
    caption: "Pace: the time that an engine takes, of what is usual for such tasks",
    sort: { name: "engine", down: false },
    key: (it) => it.id,
    columns: [
      { name: "engine", num: true, get: (it) => el("a", { href: `#/tasks?engine=${it.id}` }, it.id), by: (it) => it.id },
      { name: "host", get: (it) => it.host, by: (it) => it.host },
      { name: "process", num: true, get: (it) => it.pid || "-", by: (it) => it.pid },
      { name: "state", get: (it) => mark(it.state), by: (it) => it.state },
      { name: "now", get: (it) => (it.running ? (it.running.task ? el("a", { href: `#/task/${it.running.task}` }, kindName(it.running.kind_id)) : kindName(it.running.kind_id)) : "-"), by: (it) => (it.running ? kindName(it.running.kind_id) : null) },
      { name: "for", num: true, get: (it) => (it.running ? time(farm.at_us - it.running.since_us) : "-"), by: (it) => (it.running ? -it.running.since_us : null) },
      { name: "queue", num: true, get: (it) => count(it.queued + Math.max(0, it.assigned - 1)), by: (it) => it.queued + it.assigned },
      { name: "ended", num: true, get: (it) => count(it.ended), by: (it) => it.ended },
      { name: "failed", num: true, get: (it) => count(it.failed), by: (it) => it.failed },
      { name: "busy", num: true, get: (it) => time(it.busy_us), by: (it) => it.busy_us },
      { name: "pace", num: true, get: pace, by: (it) => it.pace_percent },
      { name: "cpu", title: "what its interpreter and programs take of one processor", num: true, get: (it) => percent(it.load && it.load.cpu_percent), by: (it) => it.load && it.load.cpu_percent },
      { name: "memory", title: "what its interpreter and programs have in memory", num: true, get: (it) => (it.load ? bytes(it.load.resident_bytes) : "-"), by: (it) => it.load && it.load.resident_bytes },
      { name: "silent", title: "since it has answered last", num: true, get: silence, by: silentUs },
      { name: "host cpu", num: true, get: (it) => percent(machine(it) && machine(it).cpu_percent), by: (it) => machine(it) && machine(it).cpu_percent },
      { name: "load", title: "processes that ran or waited for a processor of the machine, over a minute", num: true, get: (it) => (machine(it) ? `${machine(it).load.toFixed(1)} / ${count(machine(it).cores)}` : "-"), by: (it) => machine(it) && machine(it).load },
      { name: "free", title: "memory of the machine that is free", num: true, get: (it) => (machine(it) ? bytes(machine(it).memory_free_bytes) : "-"), by: (it) => machine(it) && machine(it).memory_free_bytes },
      { name: "died", title: "interpreters that have ended unasked", num: true, get: (it) => el("span", { class: it.deaths ? "bad" : null }, count(it.deaths)), by: (it) => it.deaths },
    ],
  });
  const sum = el("p");
  function update() {
    const all = [...farm.engines.values()];
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (it) => `${it.host} ${it.state} ${it.running ? kindName(it.running.kind_id) : ""}`.toLowerCase();
    const shown = all.filter((it) => words.every((word) => text(it).includes(word)));
    const slow = all.filter((it) => it.pace_percent >= 200).length;
    const states = new Map();
    for (const it of all) states.set(it.state, (states.get(it.state) || 0) + 1);
    sum.textContent = `${count(all.length)} engines: ${[...states].map(([name, n]) => `${count(n)} ${name}`).join(", ") || "none"}; ${count(slow)} slow`;
    inner.update(shown);
  }
  return { node: el("section", null, el("h1", null, "Engines"), sum, el("div", { class: "filters" }, filter), inner.node), update };
}

export function errors() {
  const inner = table({
    caption: "Failures by type and place, the latest first",
    sort: { name: "last", down: true },
    key: (it) => `${it.error} ${it.fingerprint} ${it.kind_id}`,
    columns: [
      { name: "error", get: (it) => el("span", { class: "bad" }, `✗ ${it.type || it.error}`), by: (it) => it.type || it.error },
      { name: "kind", get: (it) => it.kind, by: (it) => it.kind },
      { name: "count", num: true, get: (it) => el("a", { href: it.fingerprint ? `#/tasks?fingerprint=${it.fingerprint}` : `#/tasks?error=${it.error}` }, count(it.count)), by: (it) => it.count },
      { name: "engines", get: (it) => it.engines.join(" ") || "-" },
      { name: "first", num: true, get: (it) => ago(it.first_us, farm.at_us), by: (it) => it.first_us },
      { name: "last", num: true, get: (it) => ago(it.last_us, farm.at_us), by: (it) => it.last_us },
      { name: "sample", get: (it) => (it.sample ? el("a", { href: `#/task/${it.sample}` }, it.sample) : "another owner's") },
    ],
  });
  const none = el("p", { class: "soft" });
  const node = el("section", null, el("h1", null, "Errors"),
    el("p", { class: "soft" }, "Messages and tracebacks are sealed for the tasks' owner: `furlong result TASK` shows those of kept tasks."),
    none, inner.node);
  return {
    node,
    update() {
      none.textContent = farm.failures.length ? "" : "Nothing has failed.";
      inner.update(farm.failures);
    },
  };
}

export function owners() {
  const inner = table({
    caption: "Owners of tasks since the broker's start",
    sort: { name: "busy", down: true },
    key: (it) => it.owner || "others",
    columns: [
      { name: "owner", get: (it) => it.owner || "all others together", by: (it) => it.owner },
      { name: "sessions", num: true, get: (it) => count(it.sessions), by: (it) => it.sessions },
      { name: "submitted", num: true, get: (it) => count(it.submitted), by: (it) => it.submitted },
      { name: "unfinished", num: true, get: (it) => count(it.submitted - it.ended), by: (it) => it.submitted - it.ended },
      { name: "failed", num: true, get: (it) => count(it.failed), by: (it) => it.failed },
      { name: "busy", num: true, get: (it) => time(it.busy_us), by: (it) => it.busy_us },
      { name: "share", num: true, get: (it) => share(it.busy_us, farm.owners.reduce((sum, one) => sum + one.busy_us, 0)) },
      { name: "arguments", num: true, get: (it) => bytes(it.request_bytes), by: (it) => it.request_bytes },
      { name: "results", num: true, get: (it) => bytes(it.result_bytes), by: (it) => it.result_bytes },
    ],
  });
  return {
    node: el("section", null, el("h1", null, "Owners"), inner.node),
    update: () => inner.update(farm.owners),
  };
}

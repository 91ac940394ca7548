// What is known of the farm: one stream of changes, closed while nobody sees the page.

export const farm = {
  at_us: 0, farm: null, owners: [], notes: [], failures: [], ends: {},
  kinds: new Map(), engines: new Map(), cut: null, live: "connecting", about: {},
};

let source = null;
let listener = () => {};
let refused = () => {};
let isRefused = false;

export function kindName(id) {
  const kind = farm.kinds.get(id);
  return kind ? kind.name : "others";
}

function merge(map, rows, left) {
  for (const row of rows) map.set(row.id, row);
  if (left) {
    const ids = new Set(left);
    for (const id of map.keys()) if (!ids.has(id)) map.delete(id);
  }
}

function take(event) {
  const seen = JSON.parse(event.data);
  if (seen.whole) {
    farm.kinds.clear();
    farm.engines.clear();
  }
  merge(farm.kinds, seen.kinds, seen.kinds_left);
  merge(farm.engines, seen.engines, seen.engines_left);
  for (const name of ["at_us", "farm", "owners", "notes", "failures", "ends"]) {
    if (seen[name] !== undefined) farm[name] = seen[name];
  }
  farm.cut = seen.cut;
  farm.live = seen.cut ? "broker away" : "live";
  listener();
}

function open() {
  if (source || document.hidden || isRefused) return;
  source = new EventSource("events");
  source.addEventListener("look", take);
  source.onerror = () => {
    farm.live = "no answer";
    if (source && source.readyState === EventSource.CLOSED) {
      close();
      setTimeout(again, 1000);
    }
    listener();
  };
}

function close() {
  if (source) source.close();
  source = null;
}

// A server that was started again no longer knows who was let in.
async function again() {
  const about = await ask("about");
  if (about.status !== 401) {
    open();
  } else if (!isRefused) {
    isRefused = true;
    refused();
  }
}

function seenOrHidden() {
  if (document.hidden) close();
  else open();
}

export function start(changed, door) {
  [listener, refused, isRefused] = [changed, door, false];
  open();
  document.addEventListener("visibilitychange", seenOrHidden);
}

// Asks for something; the answer has an `error` if it does not come.
export function ask(path, values) {
  return request(path, values, {});
}

// The same for what is more than a look: no other page can send it.
export function post(path, values) {
  return request(path, values, { method: "POST", headers: { "X-Furlong": "1" } });
}

async function request(path, values, how) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values || {})) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  try {
    const answer = await fetch(text ? `${path}?${text}` : path, how);
    if (!answer.ok) return { error: await answer.text(), status: answer.status };
    return await answer.json();
  } catch {
    return { error: "the page's server does not answer" };
  }
}

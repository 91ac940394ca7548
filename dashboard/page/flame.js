// Profiles: where the code of a task was while it was sampled, as a flame graph and as a table.

import { farm, post } from "./feed.js";
import { el, put } from "./dom.js";
import { count, share, time } from "./words.js";
import { table } from "./table.js";

// A part with a button. `wanted` says of what: { task } or { kind }; `target` names a task that
// runs, for the command.
export function flame(wanted, target) {
  const said = el("p", { class: "soft", role: "status" });
  const picture = el("div", { class: "scroll" });
  const functions = table({ caption: "Functions of the main thread", sort: { name: "itself", down: true }, columns: [
    { name: "itself", num: true, get: (it) => time(it.own_us), by: (it) => it.own_us },
    { name: "with its calls", num: true, get: (it) => time(it.total_us), by: (it) => it.total_us },
    { name: "share", num: true, get: (it) => share(it.own_us, it.all_us) },
    { name: "function", get: (it) => it.function, by: (it) => it.function },
    { name: "place", get: (it) => `${it.file}:${it.line}`, by: (it) => it.file },
  ] });
  functions.node.hidden = true;
  const button = el("button", { type: "button", onclick: take }, "Profile for 5 s");
  const refusal = el("p");
  const node = el("div", null, el("p", null, button), refusal, said, picture, functions.node);

  async function take() {
    button.disabled = true;
    said.textContent = "It is sampled for 5 s ...";
    const got = await post("profile", wanted());
    button.disabled = false;
    if (got.error) {
      said.textContent = got.error;
      return;
    }
    said.textContent = got.samples
      ? `${got.title}: ${count(got.samples)} samples in ${time(got.seen_us)}.`
      : `${got.title}: no code of Python ran there meanwhile, so there is no sample.`;
    // An image has no scripts and loads nothing.
    put(picture, got.samples ? el("img", { class: "flame", alt: `Flame graph of ${got.title}; the table below has its functions`,
      src: `data:image/svg+xml,${encodeURIComponent(got.svg)}` }) : null);
    functions.update(got.functions.map((it) => ({ ...it, all_us: got.seen_us })));
    functions.node.hidden = !got.samples;
  }

  return {
    node,
    update() {
      button.hidden = !farm.about.may_profile;
      const task = target();
      put(refusal, farm.about.may_profile ? null : ["This page holds a capability that may only look, and a profile shows code: ",
        el("code", null, `furlong profile ${task || "ENGINE"} --svg flame.svg`), " draws it, with client.cap.json."]);
    },
  };
}

// The page: kinds that run now.
export function profile(query) {
  const kind = el("select", { "aria-label": "Kind" });
  let asked = query.get("kind") || "";
  kind.addEventListener("input", () => {
    asked = kind.value;
  });
  const running = () => [...farm.engines.values()].map((it) => it.running).filter((it) => it && it.task);
  const part = flame(() => ({ kind: kind.value }), () => {
    const found = running().find((it) => String(it.kind_id) === kind.value);
    return found && found.task;
  });
  const none = el("p", { class: "soft" });
  const node = el("section", null, el("h1", null, "Profile of a kind"), el("div", { class: "filters" }, kind), none,
    part.node);
  return {
    node,
    update() {
      if (document.activeElement !== kind) {
        const kinds = new Map(running().map((it) => [String(it.kind_id), it.kind]));
        if (!kinds.has(asked)) asked = "";
        put(kind, [...kinds].map(([id, name]) => el("option", { value: id, selected: id === asked }, name)));
      }
      none.textContent = kind.value ? "A task of it that runs now is sampled."
        : "No task of this owner's runs now.";
      part.update();
    },
  };
}

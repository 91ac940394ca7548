// The page: the way in, which page is shown, keys, colours, and one sentence for screen readers.

import { ask, farm, start } from "./feed.js";
import { el, put } from "./dom.js";
import { count, left } from "./words.js";
import { engines, errors, kinds, owners } from "./lists.js";
import { overview } from "./overview.js";
import { task, tasks } from "./tasks.js";
import { timeline } from "./timeline.js";
import { profile } from "./flame.js";

const PAGES = { overview, kinds, engines, tasks, timeline, errors, owners, profile };
const SAY_EVERY_MS = 10000;

const at = (id) => document.getElementById(id);
let shown = null;
let said = ["", 0];

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  return { name: name || "overview", rest: rest.join("/"), query: new URLSearchParams(query || "") };
}

function show() {
  const { name, rest, query } = route();
  if (name === "main") return;
  const make = PAGES[name] || overview;
  shown = name === "task" ? task(decodeURIComponent(rest)) : make(query);
  put(at("main"), shown.node);
  for (const link of at("nav").children) {
    const here = link.dataset.page === (name === "task" ? "tasks" : name);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (farm.farm) shown.update();
}

// An address with a key, in the tab that shows the page already, loads nothing anew.
function moved() {
  if (location.hash.startsWith("#key=")) begin();
  else if (shown) show();
}

function changed() {
  const live = at("live");
  live.textContent = farm.live === "live" ? "● live" : `○ ${farm.live}`;
  live.className = farm.live === "live" ? "good" : "bad";
  if (!farm.farm) return;
  const it = farm.farm;
  at("name").textContent = `Furlong: ${it.cluster}`;
  document.title = `${it.engines.busy}/${it.engines.online} run, ${count(it.tasks.waiting)} wait: ${it.cluster}`;
  say(it);
  // Who marks text is not disturbed.
  const selection = getSelection();
  if (selection.isCollapsed || !at("main").contains(selection.anchorNode)) shown.update();
}

function say(it) {
  const text = `${it.engines.busy} of ${it.engines.online} engines run, ${count(it.tasks.waiting)} tasks wait, `
    + `${count(it.tasks.failed)} failed, ${farm.notes.length === 1 ? "1 note" : `${farm.notes.length} notes`}, left: ${left(it.left_us)}.`;
  const now = Date.now();
  if (text !== said[0] && now - said[1] >= SAY_EVERY_MS) {
    said = [text, now];
    at("said").textContent = text;
  }
}

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = `colours: ${theme}`;
  try {
    localStorage.setItem("furlong-theme", theme);
  } catch {
    // A browser that keeps nothing shows the same, until it is closed.
  }
  if (shown && farm.farm) shown.update();
}

function themeBefore() {
  try {
    return THEMES.find((it) => it === localStorage.getItem("furlong-theme")) || "system";
  } catch {
    return "system";
  }
}

function nextTheme() {
  const now = THEMES.indexOf(document.documentElement.dataset.theme);
  setTheme(THEMES[(now + 1) % THEMES.length]);
}

function toggleHelp() {
  const keys = at("keys");
  keys.hidden = !keys.hidden;
  at("help").setAttribute("aria-expanded", String(!keys.hidden));
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const pages = Object.keys(PAGES);
  const page = pages[Number(event.key) - 1];
  if (page) location.hash = `#/${page}`;
  else if (event.key === "?") toggleHelp();
  else if (event.key === "c") nextTheme();
  else if (event.key === "/") {
    const field = at("main").querySelector("input");
    if (!field) return;
    event.preventDefault();
    field.focus();
  }
}

function frame() {
  put(at("nav"), Object.keys(PAGES).map((name) =>
    el("a", { href: `#/${name}`, "data-page": name }, name[0].toUpperCase() + name.slice(1))));
  const key = (name, what) => [el("kbd", null, name), ` ${what}  `];
  put(at("keys"), key("1", "to"), key("8", "pages"), key("/", "filter"), key("c", "colours"), key("?", "these keys"),
    key("Tab", "everything else; heads of tables sort"));
  at("theme").addEventListener("click", nextTheme);
  at("help").addEventListener("click", toggleHelp);
  document.addEventListener("keydown", press);
  window.addEventListener("hashchange", moved);
  // What is on a canvas has the colours of the moment in which it was drawn.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && farm.farm && shown.update());
  setTheme(themeBefore());
}

async function enter(key) {
  const answer = await fetch("enter", { method: "POST", headers: { "X-Furlong": "1" }, body: key });
  return answer.ok ? null : answer.text();
}

function door(why) {
  const field = el("input", { "aria-label": "Key", autocomplete: "off", size: 40 });
  const problem = el("p", { class: "bad", role: "alert" }, why || "");
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    const refused = await enter(field.value.trim().replace(/^.*#key=/, ""));
    if (refused) problem.textContent = refused;
    else begin();
  } }, el("label", null, "Key ", field), " ", el("button", null, "Enter"));
  shown = null;
  at("live").textContent = "○ no key";
  put(at("main"), el("h1", null, "This page asks for a key"),
    el("p", null, "On the machine where it is served, ", el("code", null, "furlong dashboard url"),
      " prints an address with a key. It is good once, for five minutes."), problem, form);
}

async function begin() {
  let refused = null;
  const key = location.hash.match(/^#key=(.*)$/);
  if (key) {
    history.replaceState(null, "", "#/overview");
    refused = await enter(key[1]);
  }
  const about = await ask("about");
  if (about.error) {
    door(refused || "");
    return;
  }
  farm.about = about;
  show();
  start(changed, () => door("The page's server was started again, and asks anew."));
}

frame();
begin();

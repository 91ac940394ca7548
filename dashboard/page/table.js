// Tables: sorted by a button in each head, filled again at each look, by keyboard too.

import { el, put } from "./dom.js";

const ROWS_MAX = 500;

// Columns: { name, title, get(row) -> node or text, by(row) -> what it is sorted by, num }.
export function table({ caption, columns, sort, key }) {
  let order = sort || { name: columns[0].name, down: false };
  let rows = [];
  const body = el("tbody");
  const heads = columns.map((column) =>
    el("th", { class: column.num ? "num" : null, scope: "col" },
      column.by
        ? el("button", {
            type: "button", title: column.title,
            onclick: () => {
              const down = order.name === column.name ? !order.down : Boolean(column.num);
              order = { name: column.name, down };
              draw();
            },
          }, column.name)
        : column.name));
  const title = el("caption", null, caption || "");
  const node = el("div", { class: "scroll" },
    el("table", null, title, el("thead", null, el("tr", null, heads)), body));

  function draw() {
    const column = columns.find((it) => it.name === order.name);
    if (column && column.by) {
      const sign = order.down ? -1 : 1;
      rows.sort((a, b) => {
        const [x, y] = [column.by(a), column.by(b)];
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        return x < y ? -sign : sign;
      });
    }
    columns.forEach((it, at) => {
      const how = it.name !== order.name ? null : order.down ? "descending" : "ascending";
      if (how) heads[at].setAttribute("aria-sort", how);
      else heads[at].removeAttribute("aria-sort");
    });
    const focus = document.activeElement;
    const focused = body.contains(focus) ? focus.closest("tr").dataset.key : null;
    const shown = rows.slice(0, ROWS_MAX);
    put(body, shown.map((row) =>
      el("tr", { "data-key": key ? key(row) : null },
        columns.map((it) => el("td", { class: it.num ? "num" : null }, it.get(row))))));
    const more = rows.length > ROWS_MAX ? ` (${ROWS_MAX} of ${rows.length} rows are shown)` : "";
    put(title, (caption || "") + more);
    if (focused !== null) {
      const row = [...body.children].find((it) => it.dataset.key === focused);
      const target = row && row.querySelector("a, button");
      if (target) target.focus({ preventScroll: true });
    }
  }

  return {
    node,
    update(all) {
      rows = [...all];
      draw();
    },
  };
}

// The same figures as a chart, as a table under it.
export function twin(summary, columns) {
  const inner = table({ columns, caption: "" });
  let all = [];
  const node = el("details", { ontoggle: () => node.open && inner.update(all) },
    el("summary", null, summary), inner.node);
  return {
    node,
    update(rows) {
      all = rows;
      if (node.open) inner.update(all);
    },
  };
}

// Nodes. Text of users only ever becomes text nodes and attributes, never markup.

// Of the empty picture in the page, whose name is an address that nobody asks for anything.
const SVG = document.getElementById("shape").namespaceURI;

// An element: properties that begin with `on` are listeners, the rest are attributes.
export function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

// Puts other children in place of those that are there.
export function put(node, ...children) {
  node.replaceChildren();
  add(node, children);
}

// A colour of the style sheet, as the present scheme has it: for a canvas.
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

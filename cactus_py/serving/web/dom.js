// Making elements. Text only ever becomes text: nothing in this page assigns markup.

/** An element. `props`: `class`, `text`, `on` (event -> listener), `data` (data- attributes), else attributes; false and null
 *  leave an attribute out, true sets it empty. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes. */
export function svg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** One of the icons that index.html defines. */
export function icon(name) {
  const node = svg("svg", { class: "icon", "aria-hidden": "true", viewBox: "0 0 24 24" });
  node.append(svg("use", { href: `#i-${name}` }));
  return node;
}

/** A button with an icon, and words for those who cannot see it. */
export function iconButton(name, label, listener, extra = {}) {
  return el("button", { type: "button", class: "icon-button", title: label, "aria-label": label, on: { click: listener }, ...extra }, icon(name));
}

export const byId = (id) => document.getElementById(id);

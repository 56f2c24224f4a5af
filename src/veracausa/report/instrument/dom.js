/* Elements in one line. */

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "circle", "line", "path", "rect", "text", "title", "g", "polyline"]);

/* An element with attributes and children; functions listen (onclick: …), null and false are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/* A menu: [value, text] by [value, text]; `chosen(value)` is called with what is picked. */
export function menu(label, options, value, chosen) {
  const list = options.map(([name, text]) => el("option", { value: name, selected: name === value }, text));
  return el("label", { class: "menu" }, el("span", {}, label), el("select", { onchange: (event) => chosen(event.target.value) }, ...list));
}

/* Puts other children into a place; what had the focus there has it again, found by its name. */
export function refill(place, ...children) {
  const named = (one) => one.tagName + (one.getAttribute("aria-label") || one.closest("label")?.firstChild.textContent || one.textContent);
  const held = place.contains(document.activeElement) ? named(document.activeElement) : null;
  place.replaceChildren(...children);
  if (held) [...place.querySelectorAll("select, button, [tabindex]")].find((one) => named(one) === held)?.focus({ preventScroll: true });
}

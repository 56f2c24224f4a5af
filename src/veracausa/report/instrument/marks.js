/* The chosen units, marked in every table and chart; and a click on one there chooses it.
   A table's row is about a unit if a cell of it is the unit's name. A chart's mark is if its datum has the name as `name`,
   `unit`, `head`, `edge` or `node`, or as the `value` of an axis label. Marks are rings and outlines in a drawing above the chart. */
import { el } from "./dom.js";
import { NAMED } from "./graph.js";

const NAMES = ["name", "unit", "head", "edge", "node", "value"];

/* The unit that an item of a chart is about, or null. */
export function unitOf(item, known) {
  const datum = item && item.datum;
  const found = datum && NAMES.map((name) => datum[name]).find((value) => typeof value === "string" && known(value));
  return found || null;
}

/* Items of a scene that are about units, with their place: {name, mark, bounds} by `visit`. */
export function walk(mark, x, y, known, visit) {
  if (mark.role === "legend" || mark.role === "title" || mark.role === "axis-grid") return;
  for (const item of mark.items || []) {
    if (mark.marktype === "group") {
      for (const below of item.items || []) walk(below, x + (item.x || 0), y + (item.y || 0), known, visit);
      continue;
    }
    const name = unitOf(item, known);
    if (name) visit({ name, mark, item, x, y });
  }
}

export function makeMarks(page) {
  const { store } = page;
  const known = (name) => page.known(name);
  const live = new Map();

  function markTable(root) {
    for (const row of root.querySelectorAll("tbody tr")) {
      if (row.dataset.unit === undefined) {
        const cell = [...row.cells].find((one) => known(one.textContent.trim()));
        row.dataset.unit = cell ? cell.textContent.trim() : "";
      }
      const on = row.dataset.unit !== "" && store.get().units.includes(row.dataset.unit);
      row.classList.toggle("chosen", on);
      if (on) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  /* Names in sentences and above small charts; they are no stops for the keyboard, which has the finder. */
  function markTexts() {
    for (const title of document.querySelectorAll(".part .drawn")) if (known(title.textContent.trim())) title.dataset.unit = title.textContent.trim();
    for (const text of document.querySelectorAll("p.finding, figcaption p, .summary p, details.question > summary span")) wrap(text);
  }
  function wrap(text) {
    for (const node of [...text.childNodes].filter((one) => one.nodeType === Node.TEXT_NODE)) {
      const parts = node.data.split(NAMED);
      if (parts.some((part, i) => i % 2 && known(part))) node.replaceWith(...parts.map((part, i) => (i % 2 && known(part) ? el("span", { class: "said", "data-unit": part }, part) : part)));
    }
  }

  function markChart(place, view) {
    place.querySelector(":scope > svg.over")?.remove();
    const chosen = new Set(store.get().units);
    const canvas = place.querySelector("canvas");
    if (!chosen.size || !canvas) return;
    const padding = view.padding();
    const [left, top] = view.origin().map((from, i) => from + (i ? padding.top : padding.left));
    const shapes = [];
    const lines = new Map();
    walk(view.scenegraph().root, 0, 0, (name) => chosen.has(name), ({ name, mark, item, x, y }) => {
      if (mark.marktype === "line" || mark.marktype === "trail") {
        const key = `${name} ${x} ${y}`;
        if (!lines.has(key)) lines.set(key, []);
        lines.get(key).push(`${x + item.x},${y + item.y}`);
        return;
      }
      const { x1, x2, y1, y2 } = item.bounds;
      if (mark.marktype === "symbol") shapes.push(el("circle", { cx: x + (x1 + x2) / 2, cy: y + (y1 + y2) / 2, r: Math.max(6, (x2 - x1) / 2 + 2) }));
      else if (x2 >= x1 && mark.marktype !== "rule") shapes.push(el("rect", { x: x + x1 - 1, y: y + y1 - 1, width: x2 - x1 + 2, height: y2 - y1 + 2, rx: 1 }));
    });
    for (const points of lines.values()) shapes.push(el("polyline", { points: points.join(" ") }));
    const box = canvas.getBoundingClientRect();
    const own = place.getBoundingClientRect();
    const over = el("svg", { class: "over", "aria-hidden": "true", width: box.width, height: box.height }, el("g", { transform: `translate(${left},${top})` }, ...shapes));
    over.style.left = `${box.left - own.left}px`;
    over.style.top = `${box.top - own.top}px`;
    place.append(over);
    place.dataset.marked = shapes.length;
  }

  function listenTo(place, view) {
    live.set(place, view);
    view.addEventListener("click", (event, item) => {
      const name = unitOf(item, known);
      if (name) page.pick(name, event.shiftKey || event.ctrlKey || event.metaKey, null);
    });
    view.addEventListener("mousemove", (event, item) => { place.style.cursor = unitOf(item, known) ? "pointer" : ""; });
    view.addResizeListener(() => requestAnimationFrame(() => markChart(place, view)));
    markChart(place, view);
  }

  document.addEventListener("listed", (event) => markTable(event.target));
  document.addEventListener("drawn", (event) => listenTo(event.target, event.detail));
  for (const place of document.querySelectorAll("[data-view]")) if (page.views[place.dataset.view]) listenTo(place, page.views[place.dataset.view]);

  document.addEventListener("click", (event) => {
    const own = event.target.closest("[data-unit]");
    if (own && own.dataset.unit && !event.target.closest("a, summary") && !window.getSelection().toString()) page.pick(own.dataset.unit, event.shiftKey || event.ctrlKey || event.metaKey, own.matches("button") ? own : null);
  });

  /* Rows by arrow keys, from the region that scrolls the table. */
  document.addEventListener("keydown", (event) => {
    const region = event.target.closest?.(".scroll");
    if (region !== event.target || !["ArrowDown", "ArrowUp", "Enter"].includes(event.key)) return;
    const rows = [...region.querySelectorAll("tbody tr")].filter((row) => row.dataset.unit);
    if (!rows.length) return;
    event.preventDefault();
    const at = rows.findIndex((row) => row.classList.contains("cursor"));
    if (event.key === "Enter") {
      if (at >= 0) page.pick(rows[at].dataset.unit, event.shiftKey || event.ctrlKey, region);
      return;
    }
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)))];
    rows[at]?.classList.remove("cursor");
    next.classList.add("cursor");
    next.scrollIntoView({ block: "nearest" });
    page.speak([...next.cells].map((cell) => cell.textContent.trim()).join(", "));
  });

  function redraw() {
    document.querySelectorAll("main table").forEach((table) => markTable(table.closest(".scroll") || table.parentElement));
    for (const text of document.querySelectorAll(".said, .drawn[data-unit]")) text.classList.toggle("chosen", store.get().units.includes(text.dataset.unit));
    for (const button of document.querySelectorAll("button.name")) button.setAttribute("aria-pressed", String(store.get().units.includes(button.dataset.unit)));
    markCharts();
  }
  /* Charts that are seen at once, the others one after another when the browser has nothing else to do. */
  let waiting = [];
  let called = 0;
  const idle = window.requestIdleCallback || ((next) => setTimeout(next, 30));
  function markCharts() {
    const seen = (place) => { const { top, bottom } = place.getBoundingClientRect(); return bottom > 0 && top < window.innerHeight && bottom > top; };
    const now = [...live.keys()].filter(seen);
    waiting = [...live.keys()].filter((place) => !now.includes(place));
    for (const place of now) markChart(place, live.get(place));
    if (!called && waiting.length) called = idle(markNext);
  }
  function markNext() {
    called = 0;
    const place = waiting.shift();
    if (place) markChart(place, live.get(place));
    if (waiting.length) called = idle(markNext);
  }
  markTexts();
  return { redraw, markTable };
}

/* Search over the parts and edges of circuits, where nothing has an effect of its own: a list whose rows choose them. */
import { el, menu, refill } from "./dom.js";
import { KEPT_BY, asWritten, endsOf, saidOf } from "./graph.js";
import { shown } from "./scales.js";

const FOUND = 25;
const SHOWN = ["parts", "edges"];

export function makeSeeker(place, page, circuits) {
  const { store } = page;
  const search = el("input", { type: "search", id: "find", placeholder: "a9.h6, layer 9, m3-> …", autocomplete: "off", spellcheck: "false", oninput: () => store.set({ find: search.value }), onkeydown: (event) => { if (event.key === "Enter") first(); } });
  const menus = el("div", { class: "menus" });
  const count = el("p", { class: "note", role: "status" });
  const list = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Parts and edges that were found; arrow keys move, Enter chooses" });
  const folder = (
    el("details", { class: "more", id: "find-parts", ontoggle: () => redraw() }, el("summary", {}, "Find parts and edges"),
      el("div", { class: "controls" }, el("label", { class: "menu" }, el("span", {}, "Search (Enter: the first)"), search), menus), count, list)
  );
  place.append(folder);
  const all = circuits.flatMap(rowsOf);
  const rated = all.some((one) => one.value !== null);
  let found = [];
  let listed = null;

  /* All parts, the one with the largest sum of |importance| first, then all edges, the strongest first. */
  function rowsOf(circuit) {
    const { nodes, edges, at } = circuit;
    const [into, out, size] = [0, 0, 0].map((zero) => nodes.name.map(() => zero));
    for (let i = 0; i < edges.count; i += 1) {
      out[edges.start[i]] += 1;
      into[edges.end[i]] += 1;
      for (const end of endsOf(circuit, [i])) size[end] += Math.abs(edges.importance[i] || 0);
    }
    for (const [shared, head] of circuit.joins) { // what heads share goes into each of them
      into[head] += into[shared];
      size[head] += size[shared];
    }
    const parts = nodes.name.map((name, i) => ({ name, what: "parts", said: saidOf(nodes, i), into: into[i], out: out[i], value: circuit.sides ? null : size[i], size: size[i] }));
    const rows = [...at].map(([name, i]) => ({ name, what: "edges", said: circuit.sides ? `edge ${KEPT_BY[circuit.sides[i]]}` : "edge", into: null, out: null, value: circuit.sides ? null : edges.importance[i], size: Math.abs(edges.importance[i] || 0) }));
    const order = (a, b) => b.size - a.size;
    return [...parts.sort(order), ...rows.sort(order)];
  }

  function redraw() {
    if (!folder.open) return;
    const { find = "", sort = "" } = store.get();
    if (search.value !== find) search.value = find;
    const asked = JSON.stringify([find, sort]);
    if (asked === listed) return page.mark(list);
    listed = asked;
    const text = asWritten(find);
    const kind = SHOWN.includes(sort) ? sort : "";
    found = all.filter((one) => (kind ? one.what === kind : text || one.what === "parts") && (!text || one.name.toLowerCase().includes(text) || one.said.toLowerCase().includes(text)));
    refill(menus, menu("Show", [["", "parts, then edges"], ["parts", "parts"], ["edges", "edges"]], kind, (what) => store.set({ sort: what })));
    const more = found.length > FOUND ? `; the first ${FOUND} are listed` : "";
    count.textContent = `${found.length.toLocaleString("en")} found among the parts and edges that this page has${more}.${rated ? " Σ: the sum of |importance| of a part’s edges." : ""}`;
    list.replaceChildren(found.length ? table(found.slice(0, FOUND)) : el("p", { class: "note" }, "None is called so."));
    return page.mark(list);
  }
  function table(rows) {
    const heads = ["name", "what it is", "edges in", "edges out", ...(rated ? ["importance"] : [])];
    const number = (value) => el("td", { class: "number" }, value === null ? "–" : value.toLocaleString("en"));
    return el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", { scope: "col", class: i > 1 ? "number" : "text" }, el("span", {}, head))))),
      el("tbody", {}, rows.map((one) => el("tr", {}, el("td", {}, one.name), el("td", {}, one.said), number(one.into), number(one.out), rated && el("td", { class: "number" }, one.what === "parts" ? shown(one.value, false, 3).replace("+", "Σ ") : shown(one.value, false, 4))))));
  }
  function first() { if (found.length) page.pick(found[0].name, false, search); }
  function focus() { folder.open = true; redraw(); search.focus(); }
  return { redraw, focus };
}

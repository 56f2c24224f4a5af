/* Search and filters over all units of the section, as a list that can be sorted, and over the edges of its circuit; what
   passes is counted. */
import { filtered, layerRange, missOf, sorted } from "./choosing.js";
import { el, menu, refill } from "./dom.js";
import { asWritten, edgesFound } from "./graph.js";
import { unitsOfKind } from "./packed.js";
import { shown, unsigned } from "./scales.js";

const MOST = 25;

export function makeFinder(place, page) {
  const { store } = page;
  const fed = page.sections.some((one) => one.circuits.length);
  const search = el("input", { type: "search", id: "find", placeholder: fed ? "a9.h6, a3.h2->a9.h6 …" : "a9.h6, layer 9 …", autocomplete: "off", spellcheck: "false", oninput: () => store.set({ find: search.value }), onkeydown: (event) => { if (event.key === "Enter") first(); } });
  const layers = el("input", { type: "text", size: 6, placeholder: "0-29", oninput: () => store.set({ layers: layers.value }) });
  const least = el("input", { type: "number", min: 0, step: "any", oninput: () => store.set({ least: least.value }) });
  const unit = el("span", {});
  const menus = el("div", { class: "menus" });
  const list = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": fed ? "Parts and edges that were found; arrow keys move, Enter chooses" : "Parts that were found; arrow keys move, Enter chooses" });
  const count = el("p", { class: "note", role: "status" });
  const folder = (
    el("details", { class: "more", id: "find-parts", ontoggle: () => redraw() }, el("summary", {}, fed ? "Find, filter and sort parts; find edges" : "Find, filter and sort parts"),
      el("div", { class: "controls" },
        el("label", { class: "menu" }, el("span", {}, "Search (Enter: the first)"), search), menus,
        el("label", { class: "menu" }, el("span", {}, "Layers"), layers),
        el("label", { class: "menu" }, unit, least)),
      count, list)
  );
  place.append(folder);
  let listed = null;
  let passed = [];
  let edges = [];

  /* Nothing is listed while it is folded. */
  function redraw() {
    if (!folder.open) return;
    const state = store.get();
    const asked = JSON.stringify([page.section().id, state.kind, state.find, state.layers, state.sign, state.least, state.sort]);
    if (asked === listed) return page.mark(list); // another part is chosen: the same are listed
    listed = asked;
    const section = page.section();
    const kind = section.kinds.find((one) => one.anchor === state.kind || one.kind === state.kind) || section.kinds[0];
    const own = state.find ? section.kinds.flatMap(unitsOfKind) : unitsOfKind(kind);
    passed = sorted(filtered(own, { ...state, find: asWritten(state.find), share: kind.share }), state.sort);
    edges = state.find ? section.circuits.flatMap((circuit) => edgesOfCircuit(circuit, state)) : [];
    const methods = kind.estimates.filter((one) => one.alike);
    for (const [field, name] of [[search, "find"], [layers, "layers"], [least, "least"]]) if (field.value !== (state[name] || "")) field.value = state[name] || "";
    unit.textContent = kind.share ? "At least, % of the gap" : "At least";
    refill(menus,
      menu("Sign", [["", "any"], ["for", "supports"], ["against", "works against"]], state.sign || "", (sign) => store.set({ sign })),
      menu("Sort by", [["", "size of effect"], ...methods.map(({ label }) => [`off:${label}`, kind.laid ? `size of ${label} − ${kind.first}` : `how far ${label} is off`]), ["name", "place"]], state.sort || "", (sort) => store.set({ sort })),
    );
    const more = (all) => (all.length > MOST ? `; the first ${MOST} are listed` : "");
    const also = edges.length ? ` ${edges.length.toLocaleString("en")} edge${edges.length === 1 ? "" : "s"} of the circuit (whatever their size)${more(edges)}.` : "";
    count.textContent = `${passed.length.toLocaleString("en")} of ${own.length.toLocaleString("en")} ${state.find ? "parts" : kind.many}${more(passed)}.${also}`;
    list.replaceChildren(...[passed.length && table(passed.slice(0, MOST), kind.estimates), edges.length && edgeList(edges.slice(0, MOST))].filter(Boolean));
    if (!list.children.length) list.append(el("p", { class: "note" }, "None passes these filters."));
    return page.mark(list);
  }

  /* The circuit's edges that are called so; layers and signs filter them, sizes do not: they are on another scale. */
  function edgesOfCircuit(circuit, { find, layers: range, sign }) {
    const [from, to] = layerRange(range);
    return edgesFound(circuit, asWritten(find), { sign, from, to }).map((i) => ({ circuit, i, name: circuit.edges.name[i] }));
  }
  function edgeList(found) {
    const number = (value, write = shown) => el("td", { class: "number" }, write(value, false, 4));
    return el("table", {},
      el("thead", {}, el("tr", {}, ["edge", "importance", "± SE", "exact"].map((head, i) => el("th", { scope: "col", class: i ? "number" : "text" }, el("span", {}, head))))),
      el("tbody", {}, found.map(({ circuit, i, name }) => el("tr", {}, el("td", {}, name), number(circuit.edges.importance[i]), number(circuit.edges.stderr[i], unsigned), number(circuit.exact.get(i))))));
  }

  function table(units, estimates) {
    const labels = estimates.map((one) => one.label);
    const { first, laid } = units[0].kind;
    const heads = ["part", first, ...labels.flatMap((label, i) => (estimates[i].alike ? [label, laid ? `${label} − ${first}` : "off"] : [label]))];
    return el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", { scope: "col", class: i ? "number" : "text" }, el("span", {}, head))))),
      el("tbody", {}, units.map((unit) => el("tr", {},
        el("td", {}, unit.name), el("td", { class: "number" }, shown(unit.exact, unit.kind.share)),
        labels.flatMap((label, i) => {
          const found = unit.estimates.find((one) => one.label === label);
          const value = el("td", { class: "number" }, found ? shown(found.value, unit.kind.share && found.alike) : "–");
          return estimates[i].alike ? [value, el("td", { class: "number" }, shown(missOf(unit, label), unit.kind.share))] : [value];
        })))));
  }
  function first() {
    const found = passed[0] || edges[0];
    if (found) page.pick(found.name, false, search);
  }
  function focus() { folder.open = true; redraw(); search.focus(); }
  return { redraw, focus };
}

/* Search and filters over all units of the section, as a list that can be sorted; what passes is counted. */
import { filtered, missOf, sorted } from "./choosing.js";
import { el, menu, refill } from "./dom.js";
import { unitsOfKind } from "./packed.js";
import { shown } from "./scales.js";

const MOST = 25;

export function makeFinder(place, page) {
  const { store } = page;
  const search = el("input", { type: "search", id: "find", placeholder: "a9.h6, layer 9 …", autocomplete: "off", spellcheck: "false", oninput: () => store.set({ find: search.value }), onkeydown: (event) => { if (event.key === "Enter") first(); } });
  const layers = el("input", { type: "text", size: 6, placeholder: "0-29", oninput: () => store.set({ layers: layers.value }) });
  const least = el("input", { type: "number", min: 0, step: "any", oninput: () => store.set({ least: least.value }) });
  const unit = el("span", {});
  const menus = el("div", { class: "menus" });
  const list = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Parts that were found; arrow keys move, Enter chooses" });
  const count = el("p", { class: "note", role: "status" });
  const folder = (
    el("details", { class: "more", id: "find-parts", ontoggle: () => redraw() }, el("summary", {}, "Find, filter and sort parts"),
      el("div", { class: "controls" },
        el("label", { class: "menu" }, el("span", {}, "Search (Enter: the first)"), search), menus,
        el("label", { class: "menu" }, el("span", {}, "Layers"), layers),
        el("label", { class: "menu" }, unit, least)),
      count, list)
  );
  place.append(folder);
  let listed = null;
  let passed = [];

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
    passed = sorted(filtered(own, { ...state, share: kind.share }), state.sort);
    const methods = kind.estimates.filter((one) => one.alike);
    for (const [field, name] of [[search, "find"], [layers, "layers"], [least, "least"]]) if (field.value !== (state[name] || "")) field.value = state[name] || "";
    unit.textContent = kind.share ? "At least, % of the gap" : "At least";
    refill(menus,
      menu("Sign", [["", "any"], ["for", "supports"], ["against", "works against"]], state.sign || "", (sign) => store.set({ sign })),
      menu("Sort by", [["", "size of effect"], ...methods.map(({ label }) => [`off:${label}`, kind.laid ? `size of ${label} − ${kind.first}` : `how far ${label} is off`]), ["name", "place"]], state.sort || "", (sort) => store.set({ sort })),
    );
    const more = passed.length > MOST ? `; the first ${MOST} are listed` : "";
    count.textContent = `${passed.length.toLocaleString("en")} of ${own.length.toLocaleString("en")} ${state.find ? "parts" : kind.many}${more}.`;
    list.replaceChildren(passed.length ? table(passed.slice(0, MOST), kind.estimates) : el("p", { class: "note" }, "None passes these filters."));
    return page.mark(list);
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
  function first() { if (passed.length) page.pick(passed[0].name, false, search); }
  function focus() { folder.open = true; redraw(); search.focus(); }
  return { redraw, focus };
}

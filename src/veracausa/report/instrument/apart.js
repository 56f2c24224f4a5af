/* Two circuits in one drawing: edges that both keep, and those of one alone, in the colours of a comparison. */
import { el, menu, refill } from "./dom.js";
import { drawCircuit, makeLayer, nodesOf, scaleOf } from "./drawing.js";
import { KEPT_BY } from "./graph.js";
import { pngOf, svgOf } from "./ink.js";
import { shown } from "./scales.js";
import { makeStage } from "./stage.js";

/* Sides as the address says them. */
const SIDES = ["both", "a", "b"];
const ROWS = 50;

export function makeApart(place, page, circuit) {
  const { store } = page;
  const menus = el("div", { class: "controls" });
  const legend = el("div", { class: "legend" });
  const stage = makeStage(page, { drawn: () => drawn, draw: () => draw(), text: (one) => text(one) });
  const table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Edges that are shown; arrow keys move, Enter chooses" });
  const listing = el("details", { class: "more", ontoggle: () => list() }, el("summary", {}, "The edges that are shown, as a table"), table);
  const downloads = el("p", { class: "downloads" }, "Download what is shown: ",
    ...[["PNG", pngOf], ["SVG", svgOf]].flatMap(([title, make]) => [el("button", { type: "button", onclick: async () => page.save(`circuits-a-and-b.${title.toLowerCase()}`, await make(drawn.scale, paint)) }, title), " "]));
  place.append(menus, stage.place, legend, listing, downloads);
  const layerOf = makeLayer(circuit);
  const counts = SIDES.map((_, side) => circuit.sides.filter((one) => one === side).length);
  let drawn = null;
  let waiting = 0;

  const asked = () => SIDES.indexOf(store.get().edges);
  function draw() {
    const side = asked();
    const shownEdges = circuit.orders.abs.filter((i) => side < 0 || circuit.sides[i] === side);
    const scale = scaleOf(circuit.axes, Math.max(300, Math.min(place.clientWidth, 1040)));
    drawn = { view: circuit, scale, shown: shownEdges, touched: nodesOf(circuit, shownEdges) };
    const { ink, ratio } = stage.clear(scale);
    const look = looks(page.theme());
    const key = [side, scale.width, ratio, look.look.axis.labelColor].join(" ");
    drawCircuit(ink, circuit, scale, { ...look, layer: layerOf(shownEdges, scale, ratio, look.look, key) });
    stage.point(ink);
    describe();
    list();
  }
  function looks(theme) {
    return { shown: drawn.shown, more: [], chosen: store.get().units, colours: new Map(), look: { ...theme, chosen: getComputedStyle(place).getPropertyValue("--chosen") || "#b0407a" } };
  }
  function paint(ink) { drawCircuit(ink, circuit, drawn.scale, { ...looks(page.themes.light), look: { ...page.themes.light, chosen: "#b0407a" } }); }
  function describe() {
    const { shown: edges, touched } = drawn;
    const count = (value) => value.toLocaleString("en");
    const beyond = circuit.total > circuit.edges.count ? ` The page has the ${count(circuit.edges.count)} of the best ranks, of ${count(circuit.total)} that either keeps.` : "";
    legend.replaceChildren(
      el("p", { class: "keepers" }, el("i", { class: "both" }), "both keep it ", el("i", { class: "a" }), "A only ", el("i", { class: "b" }), "B only"),
      el("p", {}, `${count(edges.length)} edges between ${count(touched.size)} parts; wider is stronger, each beside the strongest of its own circuit.${beyond}`, el("span", { class: "ask" }, " Click a part or an edge, or use arrow keys and Enter.")));
    stage.canvas.setAttribute("aria-label", `Both circuits: ${edges.length} edges between ${touched.size} parts. Arrow keys move from part to part, Enter chooses, Shift and Enter chooses one more. The panel has a part’s edges.`);
  }
  function text({ node, edge }) {
    if (edge !== undefined) return `${circuit.edges.name[edge]} · ${KEPT_BY[circuit.sides[edge]]} · A ${shown(circuit.a[edge], false, 4)} · B ${shown(circuit.b[edge], false, 4)}`;
    const { start, end } = circuit.edges;
    const own = drawn.shown.filter((i) => start[i] === node || end[i] === node);
    return `${circuit.nodes.name[node]} · ${KEPT_BY.map((said, side) => `${own.filter((i) => circuit.sides[i] === side).length} edges ${said}`).join(", ")}`;
  }
  function list() {
    if (!listing.open) return;
    const key = String(asked());
    if (table.dataset.of === key) { page.mark(table); return; }
    table.dataset.of = key;
    const heads = ["edge", "kept", "A", "B", "rank in A", "rank in B"];
    const number = (value) => el("td", { class: "number" }, value);
    const rank = (value) => (value ? value.toLocaleString("en") : "–");
    table.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head, i) => el("th", { scope: "col", class: i > 1 ? "number" : "text" }, el("span", {}, head))))),
      el("tbody", {}, ...drawn.shown.slice(0, ROWS).map((i) => el("tr", {}, el("td", {}, circuit.edges.name[i]), el("td", {}, KEPT_BY[circuit.sides[i]]), number(shown(circuit.a[i], false, 4)), number(shown(circuit.b[i], false, 4)), number(rank(circuit.ranks[0][i])), number(rank(circuit.ranks[1][i])))))),
    drawn.shown.length > ROWS ? el("p", { class: "note" }, `The ${ROWS} of the best ranks, of ${drawn.shown.length.toLocaleString("en")}; the table below has more.`) : "");
    page.mark(table);
  }
  function redraw() {
    const side = asked();
    refill(menus, menu("Edges", [["", `all (${circuit.edges.count.toLocaleString("en")})`], ...KEPT_BY.map((said, i) => [SIDES[i], `${said} (${counts[i].toLocaleString("en")})`])], side < 0 ? "" : SIDES[side], (edges) => store.set({ edges })));
    draw();
  }
  function soon() { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; redraw(); }); }
  return { redraw, soon, draw };
}

/* A circuit, live: a threshold over sizes with what was measured beside it, its drawing, groups, and what is shown as files. */
import { el, menu, refill } from "./dom.js";
import { curvesOf, drawCircuit, makeLayer, nodesOf, scaleOf } from "./drawing.js";
import { asCsv, asGraphml, asJson, asNeuronpedia, edgeRows, notForNeuronpedia } from "./exports.js";
import { circuitOf, edgesOf, measuredAt, nodesNamed, partsOf, placedOf, readGroups, sizeAt, smallestWith, stepAt, thresholdOf, writeGroups } from "./graph.js";
import { pngOf, svgOf } from "./ink.js";
import { sizesPlot } from "./plots.js";
import { shown, unsigned } from "./scales.js";
import { makeStage } from "./stage.js";

const STEPS = 400;
const UNMEASURED = { name: "", title: "", sizes: {}, random: {}, attack: [] };
const LISTED = 50;
/* The least width of a token's column, in pixels. */
const COLUMN = 40;
const RANKED = { selected: "the selected circuit", signed: "strongest by importance", abs: "strongest by |importance|" };
const COLOURS = ["blue", "vermilion", "green", "pink", "olive", "violet"];
const count = (value) => value.toLocaleString("en");

/* The part of the state that circuits are drawn by. */
export const CIRCUIT_FIELDS = ["ranking", "size", "over", "edges", "reads", "measured", "groups"];

export function prepared(told) {
  const circuit = circuitOf(told);
  circuit.curves = curvesOf(circuit);
  if (told.positions) {
    circuit.positions = placedOf(told.positions, circuit);
    circuit.positions.curves = curvesOf(circuit.positions);
  }
  return circuit;
}

export function makeCircuit(place, page, circuit) {
  const { store, speak } = page;
  const slider = el("input", { type: "range", min: 0, max: STEPS, step: 1, oninput: () => resize(sizeAt(Number(slider.value), STEPS, total())) });
  const number = el("input", { type: "number", min: 1, step: 1, onchange: () => resize(Number(number.value)) });
  const share = el("input", { type: "number", min: 1, max: 200, step: "any", value: 80, oninput: () => readout() });
  const [menus, told, plot, found, groups] = ["controls", "told", "sizes", "found", "groups"].map((name) => el("div", { class: name }));
  const before = el("button", { type: "button", class: "chip", onclick: () => jump("below") }, "← measured");
  const after = el("button", { type: "button", class: "chip", onclick: () => jump("above") }, "measured →");
  const stage = makeStage(page, { drawn: () => drawn, draw: () => draw(), text: (one) => text(one) });
  const legend = el("div", { class: "legend" });
  const table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Edges that are shown; arrow keys move, Enter chooses" });
  const listing = el("details", { class: "more", ontoggle: () => list() }, el("summary", {}, "The edges that are shown, as a table"), table);
  const files = [["PNG", () => pngOf(drawn.scale, paint)], ["SVG", () => svgOf(drawn.scale, paint)], ["JSON", asJson, "json"], ["CSV", asCsv, "csv"], ["GraphML", asGraphml, "graphml"], ["Neuronpedia’s graph", asNeuronpedia, "json"]];
  const downloads = el("p", { class: "downloads" }, "Download what is shown: ", ...files.flatMap(([title, make, ending]) => [el("button", { type: "button", onclick: () => download(title, make, ending) }, title), " "]));
  const refused = el("p", { class: "note", role: "status" });
  place.append(menus,
    el("div", { class: "threshold" }, el("label", { class: "slide" }, el("span", {}, "Edges that are kept, strongest first"), slider), el("label", { class: "menu" }, el("span", {}, "exactly"), number), before, after),
    el("div", { class: "measured" }, el("div", {}, told, el("label", { class: "keeps" }, "How small a circuit keeps ", share, " %?"), found), plot),
    groups, stage.place, legend, listing, downloads, refused);
  const layers = new Map([circuit, circuit.positions].filter(Boolean).map((view) => [view, makeLayer(view)]));
  let drawn = null;
  let waiting = 0;

  /* What the address says, as far as it means something here. */
  function now() {
    const state = store.get();
    const ranking = circuit.orders[state.ranking] ? state.ranking : circuit.orders.selected.length ? "selected" : "abs";
    const most = ranking === "selected" ? circuit.orders.selected.length : circuit.total;
    const measured = circuit.measured.find((one) => one.name === state.measured) || circuit.measured[0] || UNMEASURED;
    const size = Math.max(1, Math.min(most, Math.round(Number(state.size)) || usual(ranking, measured)));
    return { ranking, size, most, over: circuit.positions && state.over === "positions" ? "positions" : "", sign: state.edges || "", reads: state.reads || "", measured, groups: readGroups(state.groups), chosen: state.units };
  }
  /* The size that is shown first: that of the selected circuit, or the smallest measured one that keeps four fifths. */
  function usual(ranking, measured) {
    if (ranking === "selected") return circuit.orders.selected.length;
    return smallestWith(measured.sizes[ranking], 0.8).at?.edges || Math.min(200, circuit.orders[ranking].length);
  }
  const total = () => now().most;
  function resize(size) { store.set({ size: String(Math.max(1, Math.min(total(), Math.round(size) || 1))) }); }
  function jump(where) {
    const { measured, ranking, size } = now();
    const next = measuredAt(measured.sizes[ranking], size)[where];
    if (next) resize(next.edges);
  }

  function options({ ranking, over, sign, reads, measured }) {
    const kinds = [...new Set(circuit.readers.reads)];
    const words = { q: "queries", k: "keys", v: "values", kv: "keys and values", mlp: "MLPs", mixer: "mixers", logits: "the logits" };
    const rankings = Object.keys(circuit.orders).filter((name) => circuit.orders[name].length);
    refill(menus, ...[
      menu("Circuit", rankings.map((name) => [name, name === "selected" ? `${RANKED[name]} (${count(circuit.orders.selected.length)})` : RANKED[name]]), ranking, (name) => store.set({ ranking: name, size: "" })),
      circuit.positions && menu("Drawn over", [["", "layers × heads"], ["positions", "layers × positions"]], over, (name) => store.set({ over: name })),
      circuit.signed && menu("Edges", [["", "all"], ["for", "that support"], ["against", "that work against"]], sign, (edges) => store.set({ edges })),
      menu("Read by", [["", "all"], ...kinds.map((kind) => [kind, words[kind] || kind])], reads, (kind) => store.set({ reads: kind })),
      circuit.measured.length > 1 && menu("Measured on", circuit.measured.map((one) => [one.name, one.name]), measured.name, (name) => store.set({ measured: name })),
    ].filter(Boolean));
  }

  /* f, KL and the rest where they were run; else the nearest sizes that were. Nothing is read off between them. */
  function readout() {
    const { ranking, size, most, measured } = now();
    slider.value = stepAt(size, STEPS, most);
    number.value = size;
    number.max = most;
    const sizes = measured.sizes[ranking] || [];
    const { here, below, above } = measuredAt(sizes, size);
    before.disabled = !below;
    after.disabled = !above;
    const weakest = thresholdOf(circuit, { ranking, size });
    const percent = `${Number(((100 * size) / circuit.total).toPrecision(2))} % of all ${count(circuit.total)}`;
    const least = weakest === null ? "" : `, down to ${ranking === "signed" ? "importance" : "|importance|"} ${ranking === "signed" ? shown(weakest, false, 4) : Math.abs(weakest).toPrecision(3)}`;
    const fact = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", {}, value, note && el("small", {}, note)));
    const error = here && here.stderr !== null ? ` ± ${here.stderr.toFixed(3)}` : "";
    const where = [below && `${count(below.edges)} edges: f ${below.f.toFixed(3)}`, above && `${count(above.edges)} edges: f ${above.f.toFixed(3)}`].filter(Boolean).join("; ");
    const spoken = here ? `f ${here.f.toFixed(3)}, measured` : "not measured at this size";
    slider.setAttribute("aria-valuetext", `${count(size)} edges, ${spoken}`);
    told.replaceChildren(
      el("p", { class: "big" }, `${count(size)} edge${size === 1 ? "" : "s"}`, el("small", {}, ` ${RANKED[ranking]}; ${percent}${least}`)),
      here
        ? el("div", {}, el("dl", { class: "run" }, fact("f", `${here.f.toFixed(3)}${error}`), fact("KL", here.kl === null ? "–" : here.kl.toFixed(3)), here.living !== null && fact("can matter", count(here.living)), ...radii(ranking, size, measured)), el("p", { class: "note" }, `Measured at this size on ${measured.title} (${measured.ablation} ablation).`))
        : el("p", { class: "unmeasured" }, el("b", {}, "Not measured at this size."), where ? ` Measured nearest: ${where}.` : " No circuit of this ranking was run."),
    );
    const wanted = Number(share.value) / 100;
    plot.replaceChildren(sizesPlot({ sizes, random: measured.random[ranking] || [], size, most, wanted, chosen: resize }));
    found.replaceChildren(...Object.keys(measured.sizes).map((name) => keeps(name, measured.sizes[name], wanted)).filter(Boolean));
  }

  /* The adversary was set on the selected circuit alone. */
  function radii(ranking, size, measured) {
    if (ranking !== "selected") return [];
    const fact = (text) => el("div", { class: "wide" }, el("dt", {}, "adversary"), el("dd", {}, text));
    if (!measured.attack.length) return [fact("not asked (attack=True, --attack)")];
    if (measured.attack.some((one) => one.outside === 0)) return [fact("f is out of [½, 1½] by itself")];
    const amount = (value) => Number(value.toPrecision(3)).toLocaleString("en");
    return measured.attack.map(({ what, each, inside, outside }) => fact(`${what}${each ? ", each pair’s own" : ""}: ${outside === null ? `${amount(inside)} do not take` : `more than ${amount(inside)}, at most ${amount(outside)} take`} f out of [½, 1½]`));
  }

  /* The answer of one ranking, from what was run: a size, and the next smaller one that was tried. */
  function keeps(ranking, sizes, wanted) {
    const { at, below } = smallestWith(sizes, wanted);
    const title = { selected: "The selected circuit", signed: "By importance", abs: "By |importance|" }[ranking];
    const f = (one) => `f = ${one.f.toFixed(3)}`;
    const go = (one) => el("button", { type: "button", class: "name", onclick: () => store.set({ ranking, size: String(one.edges) }) }, `${count(one.edges)} edges`);
    if (!at) return below && el("p", {}, `${title}: none that was run; `, go(below), ` have ${f(below)}.`);
    const tried = below ? `; of the next smaller one that was run, ${count(below.edges)}, ${f(below)}` : "";
    const again = sizes.some((one) => one.edges > at.edges && one.f !== null && one.f < wanted) ? " Some larger ones that were run fall below it again." : "";
    return el("p", {}, `${title}: `, go(at), `, ${f(at)}${tried}.`, at.f > 1.2 ? " It overshoots: more than 1 is no better." : "", again);
  }

  /* Groups of parts: named, coloured, pinned. Pinned parts stay drawn, with all edges between them. */
  function grouping({ groups: all, chosen }) {
    const own = chosen.filter((name) => circuit.node.has(name) || circuit.positions?.node.has(name));
    const change = (i, changes) => store.set({ groups: writeGroups(all.map((one, k) => (k === i ? { ...one, ...changes } : one))) });
    const add = () => { store.set({ groups: writeGroups([...all, { name: `group ${all.length + 1}`, colour: all.length % COLOURS.length, pinned: false, units: own }]) }); groups.querySelector(".group:last-of-type input")?.select(); };
    refill(groups, ...all.map((one, i) => el("div", { class: "group", style: `--group:${page.theme().range.category[one.colour % COLOURS.length]}` },
      el("input", { type: "text", value: one.name, size: 12, "aria-label": `Name of group ${i + 1}`, onchange: (event) => change(i, { name: event.target.value || `group ${i + 1}` }) }),
      el("select", { "aria-label": `Colour of group ${i + 1}`, onchange: (event) => change(i, { colour: Number(event.target.value) }) }, ...COLOURS.map((name, k) => el("option", { value: k, selected: k === one.colour % COLOURS.length }, name))),
      el("button", { type: "button", class: "chip", "aria-label": `Choose the parts of group ${i + 1}`, title: one.units.join(", "), onclick: () => store.set({ units: one.units }, true) }, `${one.units.length} part${one.units.length === 1 ? "" : "s"}`),
      el("button", { type: "button", class: "chip", "aria-label": `Pin group ${i + 1}`, "aria-pressed": String(one.pinned), title: "Pinned parts stay drawn, with all edges between them", onclick: () => change(i, { pinned: !one.pinned }) }, one.pinned ? "pinned" : "pin"),
      el("button", { type: "button", class: "chip", "aria-label": `Remove group ${i + 1}`, onclick: () => store.set({ groups: writeGroups(all.filter((_, k) => k !== i)) }) }, "×"))),
    own.length ? el("button", { type: "button", class: "chip", onclick: add }, `Make a group of ${own.length === 1 ? own[0] : `the ${own.length} chosen parts`}`) : el("p", { class: "note" }, all.length ? "" : "Choose parts (Shift or Ctrl for several) to make a group of them: name it, colour it, pin it."));
  }

  function draw() {
    const state = now();
    const whole = edgesOf(circuit, state.over ? { ...state, sign: "" } : state);
    const view = state.over ? circuit.positions : circuit;
    const shown = state.over ? partsOf(view, whole, state.sign) : whole;
    const room = Math.max(300, Math.min(place.clientWidth, 1040));
    const scale = scaleOf(view.axes, state.over ? Math.max(room, COLUMN * (view.axes.across[1] - view.axes.across[0])) : room);
    const pinned = new Set(state.groups.filter((one) => one.pinned).flatMap((one) => one.units).flatMap((name) => nodesNamed(view, name)));
    const inside = new Set(shown);
    const { start, end } = view.edges;
    const more = pinned.size ? view.orders.abs.filter((i) => pinned.has(start[i]) && pinned.has(end[i]) && !inside.has(i)) : [];
    const all = [...shown, ...more];
    drawn = { state, view, scale, whole, own: shown, more, shown: all, touched: nodesOf(view, all) };
    const { ink, ratio } = stage.clear(scale);
    const look = looks(page.theme());
    const key = [state.ranking, state.sign, state.reads, scale.width, ratio, look.look.axis.labelColor].join(" ");
    drawCircuit(ink, view, scale, { ...look, layer: layers.get(view)(shown, scale, ratio, look.look, key) });
    stage.point(ink);
    describe();
    if (listing.open) list();
  }
  function looks(theme) {
    const { state, view, own, more } = drawn;
    const colours = new Map(state.groups.flatMap((one) => one.units.flatMap((name) => nodesNamed(view, name)).map((i) => [i, theme.range.category[one.colour % COLOURS.length]])));
    return { shown: own, more, chosen: state.chosen, colours, look: { ...theme, chosen: getComputedStyle(place).getPropertyValue("--chosen") || "#b0407a" } };
  }
  function describe() {
    const { state, view, own, more } = drawn;
    const held = Math.min(state.size, circuit.orders[state.ranking].length);
    const parts = drawn.touched.size;
    const edges = state.over ? "edges at positions" : "edges";
    const filter = own.length < held ? `; ${count(own.length)} pass the filters` : "";
    const beyond = held < state.size ? `; the page has the ${count(held)} strongest of them` : "";
    const signs = circuit.signed ? "blue supports the behaviour, orange works against it" : "magnitudes, no sign";
    const where = state.over ? placing() : filter || beyond;
    legend.replaceChildren(el("p", {}, `${count(own.length)} ${edges} between ${count(parts)} parts${where}${more.length ? `, and ${count(more.length)} between pinned parts, dashed` : ""}; ${signs}, wider is stronger.`, el("span", { class: "ask" }, " Click a part or an edge, or use arrow keys and Enter.")),
      state.over ? el("p", {}, `Thin grey lines: what attention carries from a key/value head to later positions, which has no score of its own.${view.caution ? ` ${view.caution[0].toUpperCase()}${view.caution.slice(1)}.` : ""}`) : "");
    stage.canvas.setAttribute("aria-label", `${RANKED[state.ranking]}, over ${state.over ? "layers and positions" : "layers and heads"}: ${own.length} ${edges} between ${parts} parts. Arrow keys move from part to part, Enter chooses, Shift and Enter chooses one more. The panel has a part’s edges.`);
  }
  /* Of how many edges parts at positions are drawn: not all were scored there; the page has the strongest parts. */
  function placing() {
    const { view, whole, own } = drawn;
    const known = new Set(view.whole);
    const here = new Set(own.map((i) => view.whole[i])).size;
    const lacking = whole.filter((i) => !known.has(i)).length;
    const named = view.named ? ", named by the first pair’s tokens" : "";
    return `, of ${count(here)} edges: a column is a position${named}${lacking ? `; ${count(lacking)} more ${view.total > view.edges.count ? "have no part here" : "were not scored by position, or are 0 there"}` : ""}${view.total > view.edges.count ? `; the page has the ${count(view.edges.count)} strongest of ${count(view.total)} such parts` : ""}`;
  }

  function list() {
    if (!listing.open) return;
    const { state, view, own } = drawn;
    const key = [state.ranking, state.size, state.over, state.sign, state.reads].join(" ");
    if (table.dataset.of === key) return page.mark(table);
    table.dataset.of = key;
    const rows = edgeRows({ circuit: view, shown: own });
    const cell = (value, write = shown) => el("td", { class: "number" }, write(value, false, 4));
    table.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...["edge", "importance", "± SE", "exact"].map((head, i) => el("th", { scope: "col", class: i ? "number" : "text" }, el("span", {}, head))))),
      el("tbody", {}, ...rows.slice(0, LISTED).map((row) => el("tr", {}, el("td", {}, row.name), cell(row.importance), cell(row.stderr, unsigned), cell(row.exact))))),
    rows.length > LISTED ? el("p", { class: "note" }, `The ${LISTED} strongest of ${count(rows.length)}; the downloads have all.`) : "");
    return page.mark(table);
  }

  function text({ node, edge }) {
    const { view } = drawn;
    if (node !== undefined) {
      const { start, end } = view.edges;
      const [into, out] = [drawn.shown.filter((i) => end[i] === node).length, drawn.shown.filter((i) => start[i] === node).length];
      const group = drawn.state.groups.find((one) => one.units.includes(view.nodes.name[node]));
      return `${view.nodes.name[node]}${group ? ` (${group.name})` : ""} · ${into} edges in, ${out} out`;
    }
    const exact = view.exact.get(edge);
    return `${view.edges.name[edge]} · importance ${shown(view.edges.importance[edge], false, 4)}${exact === undefined ? "" : ` · exact ${shown(exact, false, 4)}`}`;
  }

  /* What is shown, on white, as wide as it is drawn. */
  function paint(ink) { drawCircuit(ink, drawn.view, drawn.scale, { ...looks(page.themes.light), look: { ...page.themes.light, chosen: "#b0407a" } }); }
  async function download(title, make, ending) {
    const { state, view, shown } = drawn;
    const { here } = measuredAt(state.measured.sizes[state.ranking], state.size);
    const what = {
      circuit: view, about: page.about, ranking: state.ranking, size: state.size, threshold: thresholdOf(circuit, state), filters: { sign: state.sign, reads: state.reads, ...(state.over && { over: state.over }) },
      measured: here && { ...here, on: state.measured.title, ablation: state.measured.ablation }, groups: state.groups, shown,
    };
    refused.textContent = make === asNeuronpedia ? notForNeuronpedia(what) || "" : "";
    if (refused.textContent) return;
    const name = `circuit-${state.ranking}-${state.size}-edges${state.over && "-by-position"}`;
    const file = ending ? new Blob([make(what)], { type: ending === "json" ? "application/json" : "text/plain" }) : await make();
    page.save(`${name}${title.startsWith("Neuron") ? "-neuronpedia" : ""}.${ending || title.toLowerCase()}`, file);
  }

  /* What a slider does not change is made anew only where it changed. */
  let made = "";
  function redraw() {
    const state = now();
    const { ranking, over, sign, reads, measured, chosen } = state;
    const key = JSON.stringify([ranking, over, sign, reads, measured.name, chosen, store.get().groups, page.theme().font, page.theme().axis.labelColor]);
    if (key !== made) {
      options(state);
      grouping(state);
    }
    made = key;
    readout();
    draw();
  }
  /* At most once a frame: a slider moves faster. */
  function soon() {
    if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; redraw(); });
  }
  return { redraw, soon, draw };
}

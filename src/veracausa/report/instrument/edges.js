/* Edges in the panel: the strongest into a part and out of it, and a chosen edge by itself. */
import { el } from "./dom.js";
import { edgesBeside, nodesNamed } from "./graph.js";
import { shown } from "./scales.js";

/* How many of each are listed. */
const STRONGEST = 8;

function edgeTable(circuit, edges, end, head) {
  const { name, importance } = circuit.edges;
  const told = circuit.sides ? ["A", "B"] : ["importance", "exact"];
  const rows = edges.slice(0, STRONGEST).map((i) => {
    const [first, second] = circuit.sides ? [circuit.a[i], circuit.b[i]] : [importance[i], circuit.exact.get(i)];
    return el("tr", {},
      el("th", { scope: "row" }, el("button", { type: "button", class: "name", "data-unit": name[i] }, end(i))),
      el("td", { class: "number" }, shown(first, false, 4)), el("td", { class: "number" }, shown(second, false, 4)));
  });
  const columns = [head, ...told].map((text, i) => el("th", { scope: "col", class: i ? "number" : "" }, text));
  return el("table", { class: "edges" }, el("thead", {}, el("tr", {}, ...columns)), el("tbody", {}, ...rows));
}

/* Sections about a part's edges; [] where the circuit has none. */
export function edgesSections(circuit, name) {
  const [place] = nodesNamed(circuit, name);
  if (place === undefined) return [];
  const { into, out } = edgesBeside(circuit, place);
  if (!into.length && !out.length) return [];
  const { start, into: reader } = circuit.edges;
  const more = (edges) => (edges.length > STRONGEST ? ` (${STRONGEST} of ${edges.length.toLocaleString("en")})` : "");
  return [el("section", {}, el("h3", {}, "Its edges"),
    into.length ? edgeTable(circuit, into, (i) => `${circuit.nodes.name[start[i]]}${readsAs(circuit, i)}`, `from${more(into)}`) : null,
    out.length ? edgeTable(circuit, out, (i) => circuit.readers.names[reader[i]], `to${more(out)}`) : null,
    circuit.sides ? el("p", { class: "note" }, "Edges that A or B keeps; their importance in each, where it is known.") : el("p", { class: "note" }, `Scored by ${circuit.method}, the strongest first; among the ${circuit.edges.count.toLocaleString("en")} edges that this page has, of ${circuit.total.toLocaleString("en")}${atPositions(circuit)}. ${circuit.signed ? "Positive supports the behaviour." : "Magnitudes."} exact: where it was run.`))];
}

/* What the edges of a circuit are, beyond edges. */
function atPositions(circuit) { return circuit.axes.positional ? " at positions" : ""; }

function readsAs(circuit, i) {
  const kind = circuit.readers.reads[circuit.edges.into[i]];
  return { q: " → query", k: " → key", v: " → value", kv: " → key and value" }[kind] || "";
}

/* A chosen edge: its number, its rank, its ends. */
export function edgeBody(circuit, name) {
  const i = circuit.at.get(name);
  if (circuit.sides) return laidBody(circuit, i);
  const { importance, stderr } = circuit.edges;
  const exact = circuit.exact.get(i);
  const rank = 1 + circuit.orders.abs.indexOf(i);
  const value = importance[i];
  const does = !circuit.signed || !value ? "" : value > 0 ? "It supports the behaviour" : "It works against the behaviour";
  const fact = (text, number) => el("tr", {}, el("th", { scope: "row" }, text), el("td", { class: "number" }, number));
  const among = rank ? `number ${rank.toLocaleString("en")} of ${circuit.total.toLocaleString("en")} edges${atPositions(circuit)} by size` : "";
  const selected = !circuit.orders.selected.length ? "" : circuit.orders.selected.includes(i) ? "in the selected circuit" : "not in the selected circuit";
  const facts = [does, among, selected].filter(Boolean).join("; ");
  return [
    el("section", {}, el("h3", {}, "Importance"), el("p", { class: "big" }, shown(value, false, 4), el("small", {}, stderr[i] === null ? "" : ` ± ${stderr[i].toPrecision(3)}`)), el("p", {}, `${facts[0].toUpperCase()}${facts.slice(1)}.`),
      el("table", {}, el("tbody", {}, fact(`scored by ${circuit.method}`, shown(value, false, 4)), fact("exact", exact === undefined ? "not run" : shown(exact, false, 4)), exact === undefined ? null : fact("off by", shown(value - exact, false, 4))))),
    between(circuit, i, exact === undefined ? el("p", { class: "note" }, "Its exact effect: ", el("code", {}, `vc.exact(lm, task, units=["${name}"])`)) : null),
  ];
}

/* An edge of two circuits side by side. */
function laidBody(circuit, i) {
  const rank = (place) => (place ? place.toLocaleString("en") : "–");
  const rows = ["A", "B"].map((side, k) => el("tr", {}, el("th", { scope: "row" }, side),
    el("td", { class: "number" }, shown([circuit.a, circuit.b][k][i], false, 4)), el("td", { class: "number" }, rank(circuit.ranks[k][i]))));
  const heads = ["circuit", "importance", "rank"].map((text, k) => el("th", { scope: "col", class: k ? "number" : "" }, text));
  return [
    el("section", {}, el("h3", {}, "Kept by"), el("p", { class: "big" }, ["both", "A only", "B only"][circuit.sides[i]])),
    el("section", {}, el("h3", {}, "In A and in B"), el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows)),
      el("p", { class: "note" }, "Ranks by |importance|, among all edges that were scored; –: not known there.")),
    between(circuit, i, null),
  ];
}

/* The parts that an edge joins. */
function between({ nodes, edges }, i, more) {
  const ends = [edges.start[i], edges.end[i]].map((node) => nodes.name[node]);
  return el("section", {}, el("h3", {}, "Between"), el("p", {}, ...ends.flatMap((one, k) => [el("button", { type: "button", class: "name", "data-unit": one }, one), k ? "" : " → "])), more);
}

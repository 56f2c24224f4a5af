/* A circuit as the page holds it: edges in their rankings, what was measured of circuits of some sizes, and groups. */

/* Of two circuits side by side: who keeps an edge, by its side. */
export const KEPT_BY = ["in both", "in A only", "in B only"];

/* A name without its position. */
export const stemOf = (name) => name.replace(/@\d+$/, "");

/* With names: `edges.name[i]`, `edges.count`, `at`: name → place of an edge, `node`: name → place of a node, `stems`: name
   without a position → places of nodes. */
export function circuitOf(told) {
  const { nodes, readers, edges } = told;
  const { start, end, into, importance } = edges;
  const names = nodes.name.map(stemOf);
  const name = start.map((from, i) => {
    const position = nodes.position[end[i]];
    return `${names[from]}->${readers.names[into[i]]}${position >= 0 ? `@${position}` : ""}`;
  });
  const at = new Map(name.map((one, i) => [one, i]));
  const node = new Map(nodes.name.map((one, i) => [one, i]));
  const stems = new Map();
  names.forEach((stem, i) => stems.set(stem, [...(stems.get(stem) || []), i]));
  const exact = new Map(told.exact.at.map((edge, i) => [edge, told.exact.value[i]]));
  const most = importance.reduce((large, value) => Math.max(large, Math.abs(value || 0)), 0);
  return { ...told, edges: { ...edges, name, count: start.length }, at, node, stems, exact, most };
}

/* The same circuit at positions, with `whole[i]`: the place of an edge's own edge over all positions in `circuit`. */
export function placedOf(told, circuit) {
  const order = told.edges.importance.map((value, i) => [Math.abs(value || 0), i]).sort((a, b) => b[0] - a[0]).map(([, i]) => i);
  const made = circuitOf({ ...told, exact: { at: [], value: [] }, orders: { abs: order, selected: order }, prompt: circuit.prompt });
  return { ...made, whole: made.edges.name.map((name) => circuit.at.get(stemOf(name))) };
}

/* The nodes that a name means: at all positions where it says none; whatever position it says, where nodes have none. */
export function nodesNamed(circuit, name) {
  if (circuit.node.has(name)) return [circuit.node.get(name)];
  return circuit.axes.positional && stemOf(name) !== name ? [] : circuit.stems.get(stemOf(name)) || [];
}
/* The same of edges. */
export function edgesNamed(circuit, name) {
  if (circuit.at.has(name)) return [circuit.at.get(name)];
  if (!circuit.axes.positional) return circuit.at.has(stemOf(name)) ? [circuit.at.get(stemOf(name))] : [];
  return circuit.edges.name.flatMap((one, i) => (stemOf(one) === name ? [i] : []));
}

/* An edge, or a part, in a sentence. */
const PART = "[amxrfd]\\d+(?:\\.\\w+)?";
export const NAMED = new RegExp(`((?<![\\w.<>])(?:(?:input|${PART})->(?:logits|${PART}(?:<\\w+>)?)(?:@\\d+)?|${PART}(?:@\\d+)?(?![\\w(<]|\\.\\w)))`);

/* What is typed as names are written: "A3.h2 → a9.h6" is "a3.h2->a9.h6". */
export const asWritten = (text) => (text || "").trim().toLowerCase().replace(/\s*(?:->|→)\s*/g, "->");

/* The edges of a circuit whose names hold a text, the strongest first; by sign, and with an end in layers from … to. */
export function edgesFound(circuit, text, { sign = "", from = -Infinity, to = Infinity } = {}) {
  const { edges, nodes, signed } = circuit;
  const within = (node) => nodes.layer[node] >= from && nodes.layer[node] <= to;
  return [...edges.name.keys()]
    .filter((i) => edges.name[i].toLowerCase().includes(text) && (within(edges.start[i]) || within(edges.end[i])))
    .filter((i) => !sign || (signed && Math.sign(edges.importance[i]) === (sign === "for" ? 1 : -1)))
    .sort((a, b) => Math.abs(edges.importance[b] || 0) - Math.abs(edges.importance[a] || 0));
}

/* Parts at the ends of those of `names` that are edges, without positions; of what heads share, its heads, too. */
export function endsNamed(circuit, names) {
  const { edges, nodes, at, joins } = circuit;
  const ends = names.filter((name) => at.has(name)).flatMap((name) => [edges.start[at.get(name)], edges.end[at.get(name)]]);
  return [...ends, ...joins.filter(([shared]) => ends.includes(shared)).map(([, head]) => head)].map((node) => stemOf(nodes.name[node]));
}

/* The edges of a circuit's `size` strongest by a ranking that pass the filters: sign ("for", "against"), reads ("q", …). */
export function edgesOf(circuit, { ranking, size, sign, reads }) {
  const order = circuit.orders[ranking];
  const { importance, into } = circuit.edges;
  const kinds = circuit.readers.reads;
  const found = [];
  for (let k = 0; k < Math.min(size, order.length); k += 1) {
    const i = order[k];
    if (sign && (importance[i] > 0 ? "for" : "against") !== sign) continue;
    if (reads && kinds[into[i]] !== reads) continue;
    found.push(i);
  }
  return found;
}

/* Of edges over all positions their parts at positions, the strongest first; by sign, if one is asked for. */
export function partsOf(placed, edges, sign) {
  const inside = new Set(edges);
  const { importance } = placed.edges;
  return placed.orders.abs.filter((i) => inside.has(placed.whole[i]) && (!sign || (importance[i] > 0 ? "for" : "against") === sign));
}

/* The importance of the weakest edge of a circuit of `size`; null where the page has not so many. */
export function thresholdOf(circuit, { ranking, size }) {
  const order = circuit.orders[ranking];
  return size > 0 && size <= order.length ? circuit.edges.importance[order[size - 1]] : null;
}

/* What was measured of exactly so many edges (`here`), or null; and the nearest sizes `below` and `above` that were. */
export function measuredAt(sizes, size) {
  const all = [...(sizes || [])].sort((a, b) => a.edges - b.edges);
  return {
    here: all.find((one) => one.edges === size) || null,
    below: all.filter((one) => one.edges < size).at(-1) || null,
    above: all.find((one) => one.edges > size) || null,
  };
}

/* The smallest measured size with f of at least `share`, and the largest below it: {at, below}, null where there is none. */
export function smallestWith(sizes, share) {
  const all = [...(sizes || [])].filter((one) => one.f !== null).sort((a, b) => a.edges - b.edges);
  const at = all.findIndex((one) => one.f >= share);
  return { at: all[at] || null, below: at > 0 ? all[at - 1] : at < 0 ? all.at(-1) || null : null };
}

/* Places on a slider of `steps` ↔ numbers of edges up to `total`: even on a log scale, both ends exact. */
export function sizeAt(step, steps, total) { return Math.round(Math.exp((Math.log(total) * step) / steps)); }
export function stepAt(size, steps, total) { return total > 1 ? Math.round((steps * Math.log(Math.max(1, size))) / Math.log(total)) : 0; }

/* Edges into a node and out of it, among all that the page holds, the strongest first: {into, out}, each a list of edges.
   What goes into a key/value head that heads share goes into each of them. */
export function edgesBeside(circuit, place) {
  const { start, end, importance, count } = circuit.edges;
  const own = new Set([place, ...circuit.joins.filter(([, head]) => head === place).map(([shared]) => shared)]);
  const [into, out] = [[], []];
  for (let i = 0; i < count; i += 1) {
    if (own.has(end[i])) into.push(i);
    if (start[i] === place) out.push(i);
  }
  const order = (a, b) => Math.abs(importance[b]) - Math.abs(importance[a]);
  return { into: into.sort(order), out: out.sort(order) };
}

/* The nodes at the ends of edges. */
export function endsOf(circuit, shown) {
  const { start, end } = circuit.edges;
  const touched = new Set();
  for (const i of shown) touched.add(start[i]).add(end[i]);
  return touched;
}

/* From what heads share to those of its heads that the edges touch, or to all where they touch none: [[from, to], …]. */
export function joinsOf(circuit, shown) {
  const touched = endsOf(circuit, shown);
  const heads = new Map();
  for (const [shared, head] of circuit.joins) if (touched.has(shared)) heads.set(shared, [...(heads.get(shared) || []), head]);
  return [...heads].flatMap(([shared, all]) => {
    const own = all.filter((head) => touched.has(head));
    return (own.length ? own : all).map((head) => [shared, head]);
  });
}

/* Groups of parts in an address: name~colour~pinned~a9.h6~m3; one after the other. */
export function readGroups(text) {
  return (text || "").split(";").filter(Boolean).map((one) => {
    const [name, colour, pinned, ...units] = one.split("~").map(decodeURIComponent);
    return { name, colour: Math.max(0, Number.parseInt(colour, 10) || 0), pinned: pinned === "1", units };
  });
}
export function writeGroups(groups) {
  const safe = (part) => encodeURIComponent(part).replaceAll("~", "%7E");
  return groups.map(({ name, colour, pinned, units }) => [safe(name), colour, pinned ? 1 : 0, ...units.map(safe)].join("~")).join(";");
}

/* "head 6 of layer 9", of a node of a circuit. */
export function saidOf(nodes, i) {
  const [kind, layer, which] = [nodes.kind[i], nodes.layer[i], nodes.which[i]];
  if (kind === "input" || kind === "logits") return kind === "input" ? "what the stream begins with" : "what the model says";
  const at = nodes.position[i] >= 0 ? ` at position ${nodes.position[i]}` : "";
  const what = { head: `head ${which}`, kv: `key/value head ${which}`, mlp: "MLP", "mixer head": `head ${which} of the mixer` }[kind] || kind;
  return `${what} of layer ${layer}${at}`;
}

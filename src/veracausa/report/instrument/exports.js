/* What a circuit's drawing shows, as files of other programs. `what`: {circuit, about, ranking, size, measured, shown, groups, drawn}. */
import { nodesOf } from "./drawing.js";
import { joinsOf } from "./graph.js";
import { escaped } from "./ink.js";

/* Edges as records, the strongest first. */
export function edgeRows({ circuit, shown }) {
  const { name, start, into, importance, stderr } = circuit.edges;
  const order = [...shown].sort((a, b) => Math.abs(importance[b]) - Math.abs(importance[a]));
  return order.map((i) => ({
    name: name[i], writer: circuit.nodes.name[start[i]].replace(/@\d+$/, ""), reader: circuit.readers.names[into[i]],
    importance: importance[i], stderr: stderr[i], exact: circuit.exact.get(i) ?? null,
  }));
}

export function asJson(what) {
  const { circuit, about, ranking, size, threshold, filters, measured, groups } = what;
  const { method, unit, total } = circuit;
  return JSON.stringify({ ...about, circuit: { method, unit, total, ranking, size, threshold, ...filters, measured }, groups, edges: edgeRows(what) }, null, 1);
}

/* As vc.circuits.read(…, lm) reads it. */
export function asCsv(what) {
  const rows = edgeRows(what).map((row) => Object.values(row).map((value) => (value === null ? "" : value)).join(","));
  return `${["name,writer,reader,importance,stderr,exact", ...rows].join("\n")}\n`;
}

/* Directed, an edge for every input of a node, as in circuit.graphml: keys and values go into the heads that they feed. */
export function asGraphml(what) {
  const { circuit, shown, groups } = what;
  const { nodes, readers, edges } = circuit;
  const fed = new Map(); // at positions what attention carries is an edge of its own
  const joins = joinsOf(circuit, shown);
  if (!circuit.axes.positional) for (const [shared, head] of joins) fed.set(shared, [...(fed.get(shared) || []), head]);
  const group = new Map(groups.flatMap((one) => one.units.map((name) => [name, one.name])));
  const data = (key, value) => (value === null || value === undefined ? "" : `<data key="${key}">${escaped(value)}</data>`);
  const touched = [...nodesOf(circuit, shown)].filter((i) => !fed.has(i)).sort((a, b) => a - b);
  const keys = [["kind", "node", "string"], ["layer", "node", "long"], ["head", "node", "long"], ["group", "node", "string"], ["edge", "edge", "string"], ["reader", "edge", "string"], ["importance", "edge", "double"]];
  const lines = [
    '<?xml version="1.0" encoding="utf-8"?>', '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
    ...keys.map(([name, of, type]) => `<key id="${name}" for="${of}" attr.name="${name}" attr.type="${type}"/>`), '<graph edgedefault="directed">',
    ...touched.map((i) => {
      const inside = !["input", "logits"].includes(nodes.kind[i]);
      const head = nodes.kind[i].endsWith("head") ? nodes.which[i] : null;
      return `<node id="${escaped(nodes.name[i])}">${data("kind", nodes.kind[i])}${data("layer", inside ? nodes.layer[i] : null)}${data("head", head)}${data("group", group.get(nodes.name[i]))}</node>`;
    }),
  ];
  for (const i of shown) {
    const kind = readers.reads[edges.into[i]];
    const suffix = ["mlp", "logits", "mixer"].includes(kind) ? "" : `<${kind}>`;
    for (const end of fed.get(edges.end[i]) || [edges.end[i]]) {
      const [from, to] = [nodes.name[edges.start[i]], nodes.name[end]];
      lines.push(`<edge source="${escaped(from)}" target="${escaped(to)}" id="${escaped(`${from}->${to}${suffix}`)}">${data("edge", edges.name[i])}${data("reader", kind)}${data("importance", edges.importance[i])}</edge>`);
    }
  }
  for (const [from, to] of circuit.axes.positional ? joins : []) lines.push(`<edge source="${escaped(nodes.name[from])}" target="${escaped(nodes.name[to])}">${data("reader", "attention")}</edge>`);
  return `${lines.join("\n")}\n</graph>\n</graphml>\n`;
}

/* Links from node to node, [from, to, weight]: what heads share is split evenly among them, the input among the tokens
   in which the prompts differ; a node is {node, at: its position}. */
function linksOf(what) {
  const { circuit, shown } = what;
  const { nodes, edges } = circuit;
  const { tokens, differs } = circuit.prompt;
  const last = tokens.length - 1;
  const fed = new Map();
  for (const [shared, head] of joinsOf(circuit, shown)) fed.set(shared, [...(fed.get(shared) || []), head]);
  const spread = differs.map((one, i) => (one ? i : -1)).filter((i) => i >= 0);
  const links = new Map();
  for (const i of shown) {
    const ends = fed.get(edges.end[i]) || [edges.end[i]];
    const starts = nodes.kind[edges.start[i]] === "input" ? spread : [last];
    for (const to of ends) {
      for (const at of starts) {
        const key = `${edges.start[i]} ${at} ${to}`;
        const weight = (edges.importance[i] ?? 1) / ends.length / starts.length;
        links.set(key, [edges.start[i], at, to, (links.get(key)?.[3] || 0) + weight]);
      }
    }
  }
  return [...links.values()].map(([from, at, to, weight]) => ({ from, at, to, weight }));
}

/* Why Neuronpedia's graph has no words for a circuit, or null. */
export function notForNeuronpedia({ circuit, shown }) {
  if (!shown.length) return "The circuit has no edges, so there is no graph to write.";
  if (circuit.axes.positional || circuit.nodes.kind.some((kind) => kind.startsWith("mixer"))) return "Neuronpedia's graph is made of heads and MLPs over all positions; take JSON or GraphML.";
  if (!circuit.prompt.differs?.some(Boolean)) return "The first pair's prompts have other lengths: Neuronpedia's graph shows one token for one.";
  return null;
}

/* As vc.circuits.write(…, format="neuronpedia") writes it, but that no model says the answer's probability. */
export function asNeuronpedia(what) {
  const { circuit, about, size, groups } = what;
  const { nodes, prompt, layers } = circuit;
  const last = prompt.tokens.length - 1;

  const many = circuit.heads;
  const index = (i) => (nodes.kind[i] === "mlp" ? many : nodes.which[i]);
  const id = (i, at = last) => {
    if (nodes.kind[i] === "input") return `E_${prompt.ids[at]}_${at}`;
    if (nodes.kind[i] === "logits") return `${layers + 1}_${prompt.answer}_${last}`;
    return `${nodes.layer[i]}_${index(i)}_${last}`;
  };
  const links = linksOf(what).map(({ from, at, to, weight }) => ({ source: id(from, at), target: id(to), weight }));
  const inner = [...new Set(linksOf(what).flatMap(({ from, to }) => [from, to]))].filter((i) => !["input", "logits"].includes(nodes.kind[i]));
  const order = (i) => nodes.layer[i] * 2 * (many + 1) + (nodes.kind[i] === "mlp" ? many + 1 : nodes.which[i]);
  inner.sort((a, b) => order(a) - order(b));
  const plain = { token_prob: 0, is_target_logit: false, run_idx: 0, reverse_ctx_idx: 0, activation: null };
  const cantor = (layer, at) => ((layer + at) * (layer + at + 1)) / 2 + at;
  const records = [
    ...prompt.tokens.map((text, at) => ({ ...plain, node_id: `E_${prompt.ids[at]}_${at}`, feature: at, layer: "E", ctx_idx: at, feature_type: "embedding", jsNodeId: `E_${prompt.ids[at]}-${at}`, clerp: `Emb: "${text}"` })),
    ...inner.map((i) => ({ ...plain, node_id: id(i), feature: cantor(nodes.layer[i], index(i)), layer: String(nodes.layer[i]), ctx_idx: last, feature_type: nodes.kind[i] === "mlp" ? "MLP" : "attention head", jsNodeId: `${nodes.layer[i]}_${index(i)}-0`, clerp: nodes.name[i] })),
    { ...plain, node_id: `${layers + 1}_${prompt.answer}_${last}`, feature: prompt.answer, layer: String(layers + 1), ctx_idx: last, feature_type: "logit", jsNodeId: `L_${prompt.answer}-${last}`, clerp: `Output "${prompt.said}"`, is_target_logit: true },
  ];
  const influence = influenceOf(records.map((one) => one.node_id), links);
  const here = new Set(records.map((one) => one.node_id));
  const member = (name) => (circuit.node.has(name) ? id(circuit.node.get(name)) : null);
  const own = groups.map((one) => ({ ...one, ids: one.units.map(member).filter((one_) => here.has(one_)) })).filter((one) => one.ids.length);
  const slug = `${prompt.task}-0-${size}-edges`.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean).join("-");
  return JSON.stringify({
    metadata: {
      slug, scan: about.model.name, transcoder_list: [], prompt_tokens: prompt.tokens, prompt: prompt.text, node_threshold: 1, schema_version: 1,
      info: { description: `${about.title}. ${size} edges by ${circuit.method}. The answer's probability is not known here: 0 stands for it.`, generator: { name: "veracausa", version: about.versions.veracausa || "" } },
    },
    qParams: { pinnedIds: own.filter((one) => one.pinned).flatMap((one) => one.ids), supernodes: own.map((one) => [one.name, ...one.ids]), linkType: "both", clickedId: "", sg_pos: "" },
    nodes: records.map((one) => ({ ...one, influence: influence.get(one.node_id) })),
    links: links.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)),
  });
}

/* The share of all influence on the logit that nodes up to this one hold, from the most influential on; `ids` in the
   order of the stream. Influence goes back through |weights|, over the sum of each node's inputs. */
function influenceOf(ids, links) {
  const into = new Map(ids.map((id) => [id, []]));
  for (const { source, target, weight } of links) into.get(target).push([source, Math.abs(weight)]);
  const reached = new Map(ids.map((id) => [id, 0]));
  [...ids].reverse().forEach((end, i) => {
    const flow = i === 0 ? 1 : reached.get(end);
    const total = into.get(end).reduce((sum, [, size]) => sum + size, 0) || 1;
    for (const [start, size] of into.get(end)) reached.set(start, reached.get(start) + (flow * size) / total);
  });
  const whole = [...reached.values()].reduce((a, b) => a + b, 0) || 1;
  let sum = 0;
  return new Map([...ids].sort((a, b) => reached.get(b) - reached.get(a)).map((id) => { sum += reached.get(id); return [id, Math.min(1, sum / whole)]; }));
}

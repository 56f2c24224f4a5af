/* A circuit drawn: nodes over layers × heads, or × positions, and edges as curves, blue where they support the behaviour,
   orange where they work against it, wider where they are stronger. On a canvas, or on ink.js. */
import { edgesNamed, endsOf, joinsOf, nodesNamed } from "./graph.js";

const WIDTHS = [0.5, 0.8, 1.2, 1.8, 2.6, 3.6, 5];
const MARGIN = { left: 44, right: 8, top: 6, bottom: 22 };
/* Edges of a chunk are drawn together, alike dense; a layer is kept after every so many edges, so that a step of a slider
   draws no more than that. */
const CHUNK = 500;
const KEPT = 1000;
/* How near to a node or an edge a pointer must be, in pixels. */
const NEAR = 6;

/* Both ends of every edge in the axes' units, and how far its curve swings aside: made once. */
export function curvesOf(circuit) {
  const { nodes, edges, readers, axes, layers } = circuit;
  const made = { x1: [], y1: [], x2: [], y2: [], swing: [] };
  for (let i = 0; i < edges.count; i += 1) {
    const [from, to] = [edges.start[i], edges.end[i]];
    let [x1, x2] = [nodes.x[from], nodes.x[to]];
    const [y1, y2] = [nodes.y[from], nodes.y[to]];
    if (!axes.positional) {
      const middle = (x1 + x2) / 2; // the bars of input and logits are met half-way
      if (nodes.kind[from] === "input") x1 = middle;
      if (nodes.kind[to] === "logits") x2 = middle;
    }
    x2 += readers.side[edges.into[i]] * axes.aside;
    made.x1.push(x1); made.y1.push(y1); made.x2.push(x2); made.y2.push(y2);
    made.swing.push(swingOf(x1, x2, y2 - y1, axes.positional, nodes.kind[from] === "mlp" && nodes.kind[to] === "mlp", layers));
  }
  return made;
}

/* So as not to run through the nodes between its ends, an edge that goes straight up swings aside. */
function swingOf(x1, x2, rise, positional, mlps, layers) {
  if (rise <= 1 || Math.abs(x1 - x2) >= (positional ? 0.12 : 0.35)) return 0;
  const room = positional ? 0.22 : mlps ? 1 : 0.55;
  return (room * Math.min(1, 0.35 + (0.65 * rise) / layers) * 4) / 3;
}

/* Scales of a drawing that is so wide: {x, y, width, height, row}. */
export function scaleOf(axes, width) {
  const rows = axes.up[1] - axes.up[0];
  const row = Math.max(13, Math.min(40, 760 / rows));
  const height = Math.round(MARGIN.top + MARGIN.bottom + rows * row);
  const inner = width - MARGIN.left - MARGIN.right;
  return {
    x: (value) => MARGIN.left + ((value - axes.across[0]) / (axes.across[1] - axes.across[0])) * inner,
    y: (value) => MARGIN.top + (axes.up[1] - value) * row,
    wide: inner / (axes.across[1] - axes.across[0]), width, height, row,
  };
}

/* `shown`: edges; `more`: edges of pinned groups that the circuit has not, dashed; `chosen`: names; `colours`: node → colour;
   `layer`: a picture of the edges, drawn before. */
export function drawCircuit(ink, circuit, scale, { shown, more, chosen, colours, look, layer }) {
  const lit = litBy(circuit, chosen);
  const all = [...shown, ...more];
  drawAxes(ink, circuit, scale, look);
  if (layer) {
    ink.globalAlpha = lit ? 0.15 : 1;
    ink.drawImage(layer, 0, 0, scale.width, scale.height);
    ink.globalAlpha = 1;
  } else drawChunks(ink, circuit, scale, look, shown, 0, shown.length, lit ? 0.15 : 1);
  if (lit) drawEdges(ink, circuit, scale, look, shown.filter((i) => lit.has(i)), 0.85);
  ink.setLineDash([4, 3]);
  drawEdges(ink, circuit, scale, look, more, 0.7);
  ink.setLineDash([]);
  drawJoins(ink, circuit, scale, look, all);
  drawNodes(ink, circuit, scale, { shown: all, chosen, colours, look, lit });
}

/* Edges from one place of their order to another, the strongest first; the more there are, the fainter the later ones. */
function drawChunks(ink, circuit, scale, look, shown, from, to, times = 1) {
  for (let k = from; k < to; k += CHUNK - (k % CHUNK)) {
    const alpha = times * Math.max(0.12, 0.75 * (400 / (400 + k - (k % CHUNK))) ** 0.45);
    drawEdges(ink, circuit, scale, look, shown.slice(k, Math.min(to, k - (k % CHUNK) + CHUNK)), alpha);
  }
}

/* A picture of the edges that grows and shrinks with them: `layerOf(shown, key)`; another key begins anew. */
export function makeLayer(circuit) {
  let kept = [];
  let now = null;
  const sheet = ({ width, height }, ratio) => Object.assign(document.createElement("canvas"), { width: Math.ceil(width * ratio), height: Math.ceil(height * ratio) });
  return (shown, scale, ratio, look, key) => {
    if (now !== key) [kept, now] = [[], key];
    const whole = Math.min(kept.length, Math.floor(shown.length / KEPT));
    const layer = sheet(scale, ratio);
    const ink = layer.getContext("2d");
    if (whole) ink.drawImage(kept[whole - 1], 0, 0);
    ink.scale(ratio, ratio);
    for (let from = whole * KEPT; from < shown.length; from += KEPT) {
      drawChunks(ink, circuit, scale, look, shown, from, Math.min(shown.length, from + KEPT));
      if (from + KEPT > shown.length) break;
      const copy = sheet(scale, ratio);
      copy.getContext("2d").drawImage(layer, 0, 0);
      kept.push(copy);
    }
    return layer;
  };
}

/* Edges that what is chosen touches; null where nothing of this circuit is chosen. */
function litBy(circuit, chosen) {
  const edges = chosen.flatMap((name) => edgesNamed(circuit, name));
  const nodes = new Set(chosen.flatMap((name) => nodesNamed(circuit, name)));
  if (!edges.length && !nodes.size) return null;
  for (const [shared, head] of circuit.joins) if (nodes.has(head)) nodes.add(shared);
  const lit = new Set(edges);
  const { start, end, count } = circuit.edges;
  if (nodes.size) for (let i = 0; i < count; i += 1) if (nodes.has(start[i]) || nodes.has(end[i])) lit.add(i);
  return lit;
}

function drawAxes(ink, { axes }, scale, look) {
  ink.font = `10px ${look.font}`;
  ink.fillStyle = look.axis.labelColor;
  ink.textBaseline = "middle";
  ink.textAlign = "right";
  const every = Math.ceil(11 / scale.row);
  axes.rows.forEach(([y, text], i) => { if (!/^\d+$/.test(text) || i % every === 0) ink.fillText(text, MARGIN.left - 6, scale.y(y)); });
  ink.textAlign = "center";
  let last = -Infinity;
  for (const [x, text] of axes.columns) {
    const at = scale.x(x);
    if (at - last < 6 * text.length + 4) continue;
    ink.fillText(text, at, scale.height - 9);
    last = at;
  }
  ink.globalAlpha = 0.5;
  ink.fillStyle = look.axis.gridColor;
  ink.beginPath();
  const size = Math.max(1.2, Math.min(3, scale.row / 7));
  for (const [x, y] of axes.places) ink.rect(scale.x(x) - size, scale.y(y) - size, 2 * size, 2 * size);
  ink.fill();
  ink.globalAlpha = 1;
}

/* All edges of one colour and width are one path. */
function drawEdges(ink, circuit, scale, look, edges, alpha) {
  if (!edges.length) return;
  const { importance } = circuit.edges;
  const bins = new Map();
  for (const i of edges) {
    const strength = circuit.most ? Math.sqrt(Math.abs(importance[i] || 0) / circuit.most) : 0;
    const wide = Math.min(WIDTHS.length - 1, Math.floor(strength * WIDTHS.length));
    const key = wide * 3 + (circuit.sides ? circuit.sides[i] : !circuit.signed ? 0 : importance[i] < 0 ? 1 : 2);
    if (!bins.has(key)) bins.set(key, []);
    bins.get(key).push(i);
  }
  const { ordinal, heatmap } = look.range;
  const colours = circuit.sides ? [ordinal[1], heatmap[0], heatmap.at(-1)] : [ordinal[1], ordinal[0], ordinal[2]];
  for (const key of [...bins.keys()].sort((a, b) => a - b)) {
    ink.strokeStyle = colours[key % 3];
    ink.lineWidth = WIDTHS[Math.floor(key / 3)];
    ink.globalAlpha = alpha;
    ink.beginPath();
    for (const i of bins.get(key)) bend(ink, circuit.curves, scale, i);
    ink.stroke();
  }
  ink.globalAlpha = 1;
}

/* x(s) = x1 + (x2 − x1)(3 − 2s)s² + 3·swing·s(1 − s), y even in s: a cubic Bézier curve. */
function bend(ink, { x1, y1, x2, y2, swing }, scale, i) {
  const rise = (y2[i] - y1[i]) / 3;
  ink.moveTo(scale.x(x1[i]), scale.y(y1[i]));
  ink.bezierCurveTo(scale.x(x1[i] + swing[i]), scale.y(y1[i] + rise), scale.x(x2[i] + swing[i]), scale.y(y2[i] - rise), scale.x(x2[i]), scale.y(y2[i]));
}

function drawJoins(ink, circuit, scale, look, shown) {
  const { x, y } = circuit.nodes;
  ink.strokeStyle = look.axis.labelColor;
  ink.lineWidth = 0.8;
  ink.globalAlpha = circuit.axes.positional ? 0.2 : 0.5; // to every later position: many
  ink.beginPath();
  for (const [from, to] of joinsOf(circuit, shown)) {
    ink.moveTo(scale.x(x[from]), scale.y(y[from]));
    ink.lineTo(scale.x(x[to]), scale.y(y[to]));
  }
  ink.stroke();
  ink.globalAlpha = 1;
}

/* Heads are circles, MLPs squares, mixers triangles, what heads share diamonds; input and logits are bars. */
function drawNodes(ink, circuit, scale, { shown, chosen, colours, look, lit }) {
  const { nodes } = circuit;
  const near = lit && endsOf(circuit, shown.filter((i) => lit.has(i)));
  const touched = nodesOf(circuit, shown);
  const picks = new Set(chosen.flatMap((name) => nodesNamed(circuit, name)));
  for (const i of new Set([...touched, ...colours.keys()])) {
    const picked = picks.has(i);
    ink.globalAlpha = !lit || near.has(i) || picked ? 1 : 0.25;
    ink.fillStyle = colours.get(i) || look.style.exact.color;
    ink.beginPath();
    outlineNode(ink, circuit, scale, i, colours.has(i) ? 1.25 : 1);
    ink.fill();
    if (!picked) continue;
    ink.strokeStyle = look.chosen;
    ink.lineWidth = 2.5;
    ink.beginPath();
    outlineNode(ink, circuit, scale, i, 1.9);
    ink.stroke();
  }
  ink.globalAlpha = 1;
}

/* Nodes that edges touch, with the heads that what they share is joined to. */
export function nodesOf(circuit, shown) {
  const touched = endsOf(circuit, shown);
  for (const [, head] of joinsOf(circuit, shown)) touched.add(head);
  return touched;
}

function outlineNode(ink, { nodes, axes }, scale, i, times) {
  const [x, y, kind] = [scale.x(nodes.x[i]), scale.y(nodes.y[i]), nodes.kind[i]];
  const r = Math.max(2.2, Math.min(5, scale.row / 4.5, scale.wide / 3)) * times;
  if ((kind === "input" || kind === "logits") && !axes.positional) {
    ink.rect(scale.x(axes.across[0]), y - 1.5 * times, scale.x(axes.across[1]) - scale.x(axes.across[0]), 3 * times);
  } else if (kind === "mlp" || kind === "input" || kind === "logits") ink.rect(x - r, y - r, 2 * r, 2 * r);
  else if (kind === "head" || kind === "mixer head") ink.arc(x, y, r, 0, 2 * Math.PI);
  else {
    const small = kind === "mixer" ? r * 1.2 : r * 0.85;
    ink.moveTo(x, y - small);
    ink.lineTo(x + small, kind === "mixer" ? y + small : y);
    ink.lineTo(kind === "mixer" ? x - small : x, y + small);
    if (kind !== "mixer") ink.lineTo(x - small, y);
    ink.closePath();
  }
}

/* What lies under a point: a node first, then an edge; {node} or {edge}, or null. */
export function under(circuit, scale, shown, touched, x, y) {
  const { nodes, axes, curves } = circuit;
  let [best, near] = [null, NEAR + 2];
  for (const i of touched) {
    const bar = !axes.positional && (nodes.kind[i] === "input" || nodes.kind[i] === "logits");
    const far = bar ? Math.abs(scale.y(nodes.y[i]) - y) : Math.hypot(scale.x(nodes.x[i]) - x, scale.y(nodes.y[i]) - y);
    if (far < near) [best, near] = [{ node: i }, far];
  }
  if (best) return best;
  near = NEAR;
  for (const i of shown) {
    const [low, high] = [scale.y(curves.y2[i]), scale.y(curves.y1[i])];
    if (y < low || y > high || high === low) continue;
    const s = (high - y) / (high - low);
    const at = curves.x1[i] + (curves.x2[i] - curves.x1[i]) * (3 - 2 * s) * s * s + 3 * curves.swing[i] * s * (1 - s);
    const far = Math.abs(scale.x(at) - x);
    if (far < near) [best, near] = [{ edge: i }, far];
  }
  return best;
}

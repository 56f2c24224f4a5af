/* Small pictures for the panel: a strip of pairs, truth beside estimates, a response curve. All have their numbers in
   titles and beside them in words. */
import { el } from "./dom.js";
import { shown, ticks } from "./scales.js";

const WIDTH = 340;

/* A linear scale from [low, high] to [from, to]. */
export function linear(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/* The ends of values and 0, with a little room. */
export function span(values) {
  const known = [0, ...values.filter((value) => value !== null && Number.isFinite(value))];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const room = (high - low || 1) * 0.06;
  return [low - room, high + room];
}

function axis(x, low, high, y, share) {
  return ticks(low, high).map((tick) => [
    el("line", { class: tick === 0 ? "zero" : "grid", x1: x(tick), x2: x(tick), y1: 0, y2: y }),
    el("text", { class: "tick", x: x(tick), y: y + 12, "text-anchor": "middle" }, shown(tick, share, share ? 0 : 1).replace(" %", "")),
  ]);
}

/* Every pair's effect as a dot, the mean with its interval beneath. `chosen(pair)` on a click. */
export function strip(unit, chosen) {
  const { share } = unit.kind;
  const [low, high] = span([...unit.each, unit.low, unit.high]);
  const x = linear(low, high, 10, WIDTH - 10);
  const dots = unit.each.map((value, pair) => {
    if (value === null) return null;
    return el("circle", { class: "dot pick", cx: x(value), cy: 12 + ((pair * 7) % 4) * 6, r: 4, onclick: () => chosen(pair) }, el("title", {}, `pair ${pair}: ${shown(value, share)}`));
  });
  const mean = [
    unit.low !== null && el("line", { class: "interval", x1: x(unit.low), x2: x(unit.high), y1: 46, y2: 46 }),
    el("circle", { class: "mean", cx: x(unit.exact), cy: 46, r: 4.5 }, el("title", {}, `mean ${shown(unit.exact, share)}`)),
  ];
  return el("svg", { viewBox: `0 0 ${WIDTH} 76`, role: "img", "aria-label": `Effect in each of ${unit.each.length} pairs, and their mean` }, ...axis(x, low, high, 56, share), ...dots, ...mean);
}

/* The exact effect with its interval, and every estimate on the same scale beneath it. */
export function beside(unit) {
  const { share } = unit.kind;
  const estimates = unit.estimates.filter((one) => one.alike && one.value !== null);
  const [low, high] = span([unit.exact, unit.low, unit.high, ...estimates.flatMap((one) => [one.value, one.low, one.high])]);
  const x = linear(low, high, 104, WIDTH - 12);
  const down = (i) => 12 + 20 * i;
  const end = down(estimates.length + 1) - 8;
  return el("svg", { viewBox: `0 0 ${WIDTH} ${end + 18}`, role: "img", "aria-label": unit.kind.laid ? "Both results beside each other" : "The exact effect and every estimate of it" },
    ...axis(x, low, high, end, share),
    el("text", { class: "label", x: 96, y: down(0) + 4, "text-anchor": "end" }, unit.kind.first),
    unit.low !== null && el("line", { class: "interval", x1: x(unit.low), x2: x(unit.high), y1: down(0), y2: down(0) }),
    el("circle", { class: "mean", cx: x(unit.exact), cy: down(0), r: 4.5 }),
    el("line", { class: "truth", x1: x(unit.exact), x2: x(unit.exact), y1: down(0), y2: end }),
    ...estimates.flatMap((one, i) => [
      el("text", { class: "label", x: 96, y: down(i + 1) + 4, "text-anchor": "end" }, one.label.length > 15 ? `${one.label.slice(0, 14)}…` : one.label, el("title", {}, one.label)),
      Number.isFinite(one.low) && el("line", { class: "interval", x1: x(one.low), x2: x(one.high), y1: down(i + 1), y2: down(i + 1) }),
      el("line", { class: "miss", x1: x(unit.exact), x2: x(one.value), y1: down(i + 1), y2: down(i + 1) }),
      el("circle", { class: "estimate", cx: x(one.value), cy: down(i + 1), r: 4 }, el("title", {}, `${one.label} ${shown(one.value, share)}`)),
    ]));
}

/* The metric along a unit's path, with the slope at 0 dashed. */
export function curve({ alphas, values, errors, slope }) {
  const [left, right, top, bottom] = [44, WIDTH - 10, 8, 140];
  const [low, high] = span([...values, slope]);
  const x = linear(alphas[0], alphas[alphas.length - 1], left, right);
  const y = linear(low, high, bottom, top);
  const path = alphas.map((alpha, i) => `${i ? "L" : "M"}${x(alpha).toFixed(1)},${y(values[i]).toFixed(1)}`).join("");
  const inside = (value) => Math.min(bottom, Math.max(top, y(value)));
  return el("svg", { viewBox: `0 0 ${WIDTH} 172`, role: "img", "aria-label": "The metric along the unit’s path" },
    ...ticks(low, high).map((tick) => [
      el("line", { class: tick === 0 ? "zero" : "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      el("text", { class: "tick", x: left - 5, y: y(tick) + 3, "text-anchor": "end" }, shown(tick, true, 0)),
    ]).flat(),
    ...[0, 1].map((alpha) => el("line", { class: "grid", x1: x(alpha), x2: x(alpha), y1: top, y2: bottom })),
    ...ticks(alphas[0], alphas[alphas.length - 1], 3).map((tick) => el("text", { class: "tick", x: x(tick), y: bottom + 13, "text-anchor": "middle" }, String(tick).replace("-", "−"))),
    el("line", { class: "slope", x1: x(0), x2: x(1), y1: y(0), y2: inside(slope) }),
    ...alphas.map((alpha, i) => (errors[i] === null ? null : el("line", { class: "interval", x1: x(alpha), x2: x(alpha), y1: inside(values[i] - errors[i]), y2: inside(values[i] + errors[i]) }))),
    el("path", { class: "curve", d: path }),
    el("text", { class: "tick", x: (left + right) / 2, y: bottom + 28, "text-anchor": "middle" }, "0: its own value, 1: the corrupted one"));
}

/* f over the number of edges on a log axis: dots where it was run, with ± 1 standard error, hollow ones of a random ranking;
   nothing between. An upright line is the size that is shown, a level one the wanted f. `chosen(edges)` on a click. */
export function sizesPlot({ sizes, random, size, most, wanted, chosen }) {
  const [left, right, top, bottom] = [34, WIDTH - 8, 8, 112];
  const known = sizes.filter((one) => one.f !== null);
  const [low, high] = span([1, ...known.map((one) => one.f)].map((value) => Math.max(-0.5, Math.min(2, value))));
  const x = linear(0, Math.log(Math.max(2, most)), left, right);
  const y = linear(low, high, bottom, top);
  const inside = (value) => Math.min(bottom, Math.max(top, y(value)));
  const across = (edges) => x(Math.log(Math.max(1, edges)));
  const powers = [1, 10, 100, 1000, 10000, 100000, 1000000].filter((one) => one <= most);
  const spots = known.map((one) => {
    const error = one.stderr === null ? 0 : one.stderr;
    return el("g", { class: "pick", onclick: () => chosen(one.edges) },
      el("title", {}, `${one.edges.toLocaleString("en")} edges: f ${one.f.toFixed(3)}${error ? ` ± ${error.toFixed(3)}` : ""}`),
      error > 0 && el("line", { class: "interval", x1: across(one.edges), x2: across(one.edges), y1: inside(one.f - error), y2: inside(one.f + error) }),
      el("circle", { class: one.edges === size ? "estimate" : "dot", cx: across(one.edges), cy: inside(one.f), r: one.edges === size ? 5.5 : 4 }));
  });
  const chance = (random || []).filter((one) => one.f !== null && one.edges <= most).map((one) => el("circle", { class: "hollow", cx: across(one.edges), cy: inside(one.f), r: 3 }, el("title", {}, `random ranking, ${one.edges.toLocaleString("en")} edges: f ${one.f.toFixed(3)}`)));
  return el("svg", { viewBox: `0 0 ${WIDTH} 140`, role: "img", "aria-label": `f over the number of edges, where it was run: ${known.map((one) => `${one.edges} edges ${one.f.toFixed(2)}`).join(", ")}` },
    ...ticks(low, high).flatMap((tick) => [el("line", { class: tick === 0 ? "zero" : "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }), el("text", { class: "tick", x: left - 4, y: y(tick) + 3, "text-anchor": "end" }, String(Number(tick.toFixed(2))).replace("-", "−"))]),
    ...powers.map((one) => el("text", { class: "tick", x: across(one), y: bottom + 13, "text-anchor": "middle" }, one.toLocaleString("en"))),
    Number.isFinite(wanted) && el("line", { class: "slope", x1: left, x2: right, y1: inside(wanted), y2: inside(wanted) }),
    el("line", { class: "now", x1: across(size), x2: across(size), y1: top, y2: bottom }), ...chance, ...spots,
    el("text", { class: "tick", x: (left + right) / 2, y: bottom + 26, "text-anchor": "middle" }, "edges kept; dots: f where it was run, hollow: a random ranking"));
}

/* The panel of the chosen unit: all that the study knows of it, and the calls that find what it does not know. */
import { writeAddress } from "./address.js";
import { el, refill } from "./dom.js";
import { edgeBody, edgesSections } from "./edges.js";
import { saidOf } from "./graph.js";
import { streamOf, toldOf } from "./packed.js";
import { beside, curve, strip } from "./plots.js";
import { shown, unsigned } from "./scales.js";

export function makePanel(place, page) {
  const { store } = page;
  let pair = 0;
  const open = { pairs: false };

  function redraw() {
    const { units: chosen } = store.get();
    const name = chosen[chosen.length - 1];
    place.hidden = !name;
    document.body.classList.toggle("has-unit", Boolean(name));
    if (!name) return;
    const unit = page.units().get(name);
    const top = place.querySelector(".body")?.scrollTop || 0;
    refill(place, head(chosen, name, unit), el("div", { class: "body", tabindex: 0, role: "region", "aria-label": "What is known of it" }, ...(unit ? body(unit) : other(name)).filter(Boolean)));
    if (place.dataset.of === name) place.querySelector(".body").scrollTop = top;
    place.dataset.of = name;
  }

  function head(chosen, name, unit) {
    const others = chosen.length > 1 ? chosen.map((one) => el("button", { type: "button", class: "chip", "aria-pressed": String(one === name), title: `Let ${one} go`, onclick: () => store.choose(one, true) }, `${one} ×`)) : [];
    return el("header", {},
      el("div", {}, el("h2", { tabindex: -1 }, name, el("a", { class: "link", href: writeAddress({ units: [name] }), "aria-label": `Link to ${name}` })), el("p", {}, unit ? unit.said : kindIn(name)), el("div", { class: "chips" }, ...others)),
      el("button", { type: "button", class: "close", "aria-label": "Close, and let all go", onclick: () => page.close() }, "×"));
  }

  /* What is no unit with an effect of its own, but a part or an edge of a circuit. */
  function other(name) {
    const edge = views().find((one) => one.at.has(name));
    if (edge) return [...edgeBody(edge, name), chosenEdges(edge)];
    return [...edges(name), missing(name)];
  }
  /* All chosen edges of a drawing beside each other, where there are several. */
  function chosenEdges({ at, edges: all, a, b }) {
    const chosen = store.get().units.filter((one) => at.has(one));
    if (chosen.length < 2) return null;
    const columns = a ? [a, b] : [all.importance];
    const rows = chosen.map((one) => el("tr", {}, el("th", { scope: "row" }, one), ...columns.map((column) => el("td", { class: "number" }, shown(column[at.get(one)], false, 4)))));
    return part("The chosen ones beside each other", [table(["edge", ...(a ? ["A", "B"] : ["importance"])], rows)]);
  }
  const circuits = () => page.section().circuits;
  /* Circuits, and the same at positions. */
  const views = () => circuits().flatMap((one) => (one.positions ? [one, one.positions] : [one]));
  function edges(name) { return circuits().flatMap((one) => edgesSections(one.positions?.node.has(name) ? one.positions : one, name)); }
  function kindIn(name) {
    const circuit = views().find((one) => one.node.has(name) || one.at.has(name));
    return !circuit ? "" : circuit.at.has(name) ? "edge" : saidOf(circuit.nodes, circuit.node.get(name));
  }

  function missing(name) {
    const others = page.sections.filter((one) => one !== page.section() && one.kinds.some((kind) => kind.names.includes(name)));
    const instead = others.map((one) => el("button", { type: "button", class: "chip", onclick: () => store.set({ task: one.id }) }, one.title));
    return el("p", {}, `No effect of ${name} was run on these prompts. `, ...(instead.length ? ["It was on: ", ...instead] : [el("code", {}, `vc.exact(lm, task, units=["${name}"])`), " runs it."]));
  }

  function body(unit) {
    const section = page.section();
    const told = toldOf(section, unit.name);
    const stream = streamOf(section, unit);
    return [
      tasks(unit), effect(unit),
      ...(unit.kind.laid ? sentences(told) : []),
      unit.kind.first !== "exact" && !unit.estimates.length ? null : part(unit.kind.laid ? "Side by side" : "Truth and estimates", unit.estimates.length ? [unit.estimates.some((one) => one.alike) && beside(unit), estimates(unit)] : [el("p", {}, "Nothing was estimated.")]),
      pairs(unit, section), compared(), ...edges(unit.name),
      ...told.filter((one) => one.what === "curve").map((one) => part(one.title, [curve(one), el("p", { class: "note" }, `${one.about[0].toUpperCase()}${one.about.slice(1)}, share of the gap.`)])),
      ...told.filter((one) => one.what === "looks").map((one) => looks(one, section)),
      answers(told), numbers(told, unit),
      ...(unit.kind.laid ? [] : sentences(told)),
      stream.length ? around(stream, section) : null,
      unknown(told, stream),
    ].filter(Boolean);
  }

  function part(title, children) { return el("section", {}, el("h3", {}, title), ...children); }

  function tasks(unit) {
    const other = page.sections.filter((one) => one.kinds.some((kind) => kind.names.includes(unit.name)));
    if (other.length < 2) return null;
    return el("div", { class: "chips" }, ...other.map((one) => el("button", { type: "button", class: "chip", "aria-pressed": String(one === page.section()), onclick: () => store.set({ task: one.id }) }, one.title)));
  }

  function effect(unit) {
    const { kind } = unit;
    const title = kind.laid ? `In ${kind.first}` : kind.first === "exact" ? "Exact effect" : kind.first;
    if (unit.exact === null) return part(title, [el("p", {}, "It is not known.")]);
    const rank = 1 + kind.exact.value.filter((value) => Math.abs(value) > Math.abs(unit.exact)).length;
    const range = unit.low === null ? (kind.n === 1 && kind.first === "exact" ? "one pair: no interval" : "no interval is known") : `95 % interval ${shown(unit.low, kind.share)} to ${shown(unit.high, kind.share)}, ${kind.n} pairs`;
    const sign = unit.exact * kind.supports;
    const does = !kind.supports || !unit.exact ? "" : sign > 0 ? "supports the answer" : "works against the answer";
    return part(title, [
      el("p", { class: "big" }, shown(unit.exact, kind.share), el("small", {}, kind.share ? " of the gap" : ` ${kind.title}`)),
      el("p", {}, `Number ${rank} of ${kind.names.length.toLocaleString("en")} ${kind.many} by size${does ? `; it ${does}` : ""}; ${range}.`),
    ]);
  }

  function estimates(unit) {
    const rows = unit.estimates.map((one) => {
      const known = one.value !== null && unit.exact !== null;
      const off = one.alike && known ? shown(one.value - unit.exact, unit.kind.share) : "–";
      const wrong = one.alike && known && one.value * unit.exact < 0 ? ` (${unit.kind.laid ? "other" : "wrong"} sign)` : "";
      return el("tr", {}, el("th", { scope: "row" }, one.label), el("td", { class: "number" }, shown(one.value, unit.kind.share && one.alike)), el("td", { class: "number" }, off + wrong));
    });
    return table(unit.kind.laid ? ["result", "says", `less ${unit.kind.first}`] : ["estimate", "says", "off by"], rows);
  }

  function table(heads, rows) {
    return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head, i) => el("th", { scope: "col", class: i ? "number" : "" }, head)))), el("tbody", {}, ...rows));
  }

  function pairs(unit, section) {
    if (!section.pairs.length) return null;
    const shownPair = section.pairs[Math.min(pair, section.pairs.length - 1)];
    const pick = (next) => { pair = Math.max(0, Math.min(section.pairs.length - 1, next)); redraw(); };
    const several = section.pairs.length > 1;
    const value = unit.each ? `: ${shown(unit.each[pair], unit.kind.share)}` : "";
    return part(unit.each ? "Pair by pair" : "The prompts", [
      unit.each && strip(unit, pick),
      unit.each && el("p", { class: "note" }, `Dots: each pair’s effect${unit.kind.share ? " over the mean gap" : ""}. Below: their mean${unit.low === null ? "" : ", 95 % interval (Student)"}.`),
      several && el("div", { class: "chips" }, el("button", { type: "button", class: "chip", "aria-label": "The pair before", onclick: () => pick(pair - 1) }, "←"), el("span", {}, `pair ${pair}${value}`), el("button", { type: "button", class: "chip", "aria-label": "The next pair", onclick: () => pick(pair + 1) }, "→")),
      prompt(shownPair, "clean"), prompt(shownPair, "corrupted"),
      unit.each && choosing(unit, section, pick),
    ]);
  }

  /* All pairs with their effects: a click shows one, ticks choose those that a mean is taken over. */
  function choosing(unit, section, pick) {
    const ticked = new Set((store.get().pairs || "").split(",").filter(Boolean).map(Number));
    const own = unit.each.filter((value, i) => ticked.has(i) && value !== null);
    const mean = own.reduce((sum, value) => sum + value, 0) / own.length;
    const tick = (i, on) => store.set({ pairs: [...ticked].filter((one) => one !== i).concat(on ? [i] : []).sort((a, b) => a - b).join(",") });
    const rows = unit.each.map((value, i) => el("li", {},
      el("input", { type: "checkbox", checked: ticked.has(i), "aria-label": `Take pair ${i} into the mean`, onchange: (event) => tick(i, event.target.checked) }),
      el("button", { type: "button", class: "name", "aria-label": `Show pair ${i}`, onclick: () => pick(i) }, String(i)), el("span", { class: "number" }, shown(value, unit.kind.share)),
      el("span", { class: "words" }, section.pairs[i] ? section.pairs[i].clean.join("").trim() : "")));
    const said = own.length ? `Mean over the ${own.length} ticked: ${shown(mean, unit.kind.share)}${unit.kind.share ? ", over the mean gap of all" : ""}; over all ${unit.each.length}: ${shown(unit.exact, unit.kind.share)}.` : "Tick pairs to take their mean.";
    return el("details", { class: "more", open: open.pairs, ontoggle: (event) => { open.pairs = event.target.open; } }, el("summary", {}, "Choose pairs"), el("p", { class: "note", role: "status" }, said), el("ol", { class: "pairs", start: 0 }, ...rows));
  }

  function prompt(shownPair, run) {
    return el("p", { class: "tokens" }, el("small", {}, `${run} `), ...shownPair[run].map((text, i) => el(shownPair.differs[i] ? "mark" : "span", {}, text)));
  }

  /* All chosen units beside each other, where there are several. */
  function compared() {
    const chosen = store.get().units.map((name) => page.units().get(name)).filter(Boolean);
    if (chosen.length < 2) return null;
    const labels = [...new Set(chosen.flatMap((unit) => unit.estimates.filter((one) => one.alike).map((one) => one.label)))];
    const rows = chosen.map((unit) => el("tr", {}, el("th", { scope: "row" }, unit.name), el("td", { class: "number" }, shown(unit.exact, unit.kind.share)),
      ...labels.map((label) => { const found = unit.estimates.find((one) => one.label === label); return el("td", { class: "number" }, found ? shown(found.value, unit.kind.share) : "–"); })));
    return part("The chosen ones beside each other", [table(["part", chosen[0].kind.first, ...labels], rows)]);
  }

  function answers(told) {
    const own = told.filter((one) => one.what === "answers");
    if (!own.length) return null;
    const rows = own.map((one) => el("tr", {}, el("th", { scope: "row" }, one.ablation), el("td", { class: "number" }, `${one.right} of ${one.n}`), el("td", { class: "number" }, `−${one.lost} +${one.gained}`), el("td", { class: "number" }, one.p === null ? "–" : one.p < 0.001 ? "< 0.001" : one.p.toFixed(3))));
    return part(own[0].title, [el("p", {}, `Unablated, ${own[0].before} of ${own[0].n} answers are right.`), table(["replaced by", "right", "lost, gained", "p"], rows), el("p", { class: "note" }, `${own[0].about}.`)]);
  }

  function numbers(told, unit) {
    const own = told.filter((one) => one.what === "number");
    if (!own.length) return null;
    const rows = own.map((one) => {
      const share = unit.kind.share && !one.about.includes("logits");
      const error = one.error === null || one.error === undefined ? "" : ` ± ${unsigned(one.error, share)}`;
      return el("tr", {}, el("th", { scope: "row" }, one.title, el("small", {}, one.about)), el("td", { class: "number" }, shown(one.value, share), error));
    });
    return part("Other questions", [table(["asked", "found, ± standard error"], rows)]);
  }

  /* The first pair's tokens, shaded by how much the head looks at them from where the answer is read. */
  function looks(one, section) {
    const first = section.pairs[0];
    const rows = ["clean", "corrupted"].filter((run) => one[run] && one[run].length === first[run].length).map((run) => {
      const order = first[run].map((text, i) => [one[run][i], text, i]).sort((a, b) => b[0] - a[0] || a[2] - b[2]);
      const most = order.slice(0, 3).filter(([percent]) => percent > 0).map(([percent, text, i]) => `${percent} % to “${text.trim()}” (${i})`);
      return [
        el("p", { class: "tokens looks" }, el("small", {}, `${run} `), ...first[run].map((text, i) => el("span", { style: `--looked:${one[run][i]}%`, title: `${i}: ${one[run][i]} %` }, text))),
        el("p", { class: "note" }, `${run}: ${most.join(", ")}`),
      ];
    });
    return rows.length ? part("Where it looks", [...rows.flat(), el("p", { class: "note" }, `Pair 0: ${one.about}.`)]) : null;
  }

  function sentences(told) {
    const own = told.filter((one) => one.what === "sentence");
    const titles = [...new Set(own.map((one) => one.title))];
    return titles.map((title) => part(title, own.filter((one) => one.title === title).map((one) => el("p", {}, one.text))));
  }

  function around(stream, section) {
    const told = section.told.find((one) => one.what === "stream");
    const rows = stream.map((one) => el("tr", {}, el("th", { scope: "row" }, one.point), el("td", { class: "number" }, shown(one.metric, false, 2)), el("td", { class: "number" }, one.token === undefined ? "–" : `“${one.token}” in ${one.in} of ${one.n}`)));
    return part(told.title, [table(["point", section.metric, "likeliest token"], rows), el("p", { class: "note" }, `${told.about}.`)]);
  }

  function unknown(told, stream) {
    const known = new Set(told.map((one) => one.title));
    if (stream.length) known.add("What the stream says there");
    if (edges(store.get().units.at(-1)).length) known.add("Edges");
    const name = store.get().units.at(-1);
    const left = page.calls.filter((one) => !known.has(one.title));
    if (!left.length) return null;
    return part("Not in this study", [el("ul", { class: "calls" }, ...left.map((one) => el("li", {}, `${one.what}: `, el("code", {}, one.call.replace("UNIT", name)))))]);
  }

  return { redraw, focus: () => place.querySelector("h2")?.focus() };
}

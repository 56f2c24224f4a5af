/* The map: one row per layer, early ones at the bottom; a cell per unit, coloured by its effect or by an estimate. */
import { missOf } from "./choosing.js";
import { el, menu, refill } from "./dom.js";
import { endsNamed } from "./graph.js";
import { unitsOfKind } from "./packed.js";
import { colourOf, differenceColour, limitOf, shown } from "./scales.js";

const LEFT = 26;
const BELOW = 18;

/* Where units stand: {cells: [{unit, row, column}], rows: layers from the top, columns: how many, ranked}.
   By index or position where that is theirs alone and there are few; else by size, the `most` strongest of a layer first. */
export function laidOut(units, most = 80) {
  const rows = [...new Set(units.map((unit) => unit.layer))].sort((a, b) => b - a);
  const place = (unit) => (unit.position >= 0 ? unit.position : Math.max(0, unit.index));
  const taken = new Set(units.map((unit) => `${unit.layer} ${place(unit)}`));
  const widest = units.reduce((large, unit) => Math.max(large, place(unit)), 0);
  const ranked = taken.size < units.length || widest >= 160;
  const row = new Map(rows.map((layer, i) => [layer, i]));
  const counts = new Map();
  const order = ranked ? [...units].sort((a, b) => Math.abs(b.exact) - Math.abs(a.exact)) : units;
  const cells = order.map((unit) => {
    const next = counts.get(unit.layer) || 0;
    counts.set(unit.layer, next + 1);
    return { unit, row: row.get(unit.layer), column: ranked ? next : place(unit) };
  });
  const shown = ranked ? cells.filter((cell) => cell.column < most) : cells;
  return { cells: shown, rows, columns: 1 + shown.reduce((wide, cell) => Math.max(wide, cell.column), 0), ranked };
}

/* What a cell shows: the exact effect, an estimate, or how far that is off ("off:atp"). */
export function valueOf(unit, by) {
  if (by === "exact") return unit.exact;
  const label = by.startsWith("off:") ? by.slice(4) : by;
  if (by.startsWith("off:")) return missOf(unit, label);
  const found = unit.kind.estimates.find((one) => one.label === label);
  return found ? found.value[unit.at] : null;
}

export function makeMap(place, page) {
  const { store, theme, speak } = page;
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-roledescription": "map" });
  const tip = el("div", { class: "tip", hidden: true });
  const controls = el("div", { class: "controls" });
  const legend = el("div", { class: "legend" });
  place.append(controls, el("div", { class: "canvas" }, canvas, tip), legend);
  let layout = {};
  let drawn = null;
  let cursor = null;

  function kindOf(section) {
    const { kind } = store.get();
    return section.kinds.find((one) => one.anchor === kind || one.kind === kind) || section.kinds[0];
  }

  function options() {
    const { sections } = page;
    const section = page.section();
    const kind = kindOf(section);
    const methods = kind.estimates.filter((one) => one.alike).flatMap(({ label }) => [[label, label], [`off:${label}`, `${label} − ${kind.first}`]]);
    refill(controls,
      ...(sections.length > 1 ? [menu("Prompts", sections.map((one) => [one.id, one.title]), section.id, (task) => store.set({ task }))] : []),
      ...(section.kinds.length > 1 ? [menu("Parts", section.kinds.map((one) => [one.anchor, one.many]), kind.anchor, (name) => store.set({ kind: name, by: "" }))] : []),
      ...(methods.length ? [menu("Colour", [["exact", kind.first === "exact" ? "exact effect" : kind.first], ...methods], by(kind), (name) => store.set({ by: name === first(kind) ? "" : name }))] : []),
    );
  }

  /* What a map shows where nothing is wanted: the truth; of two results laid side by side, how they differ. */
  function first(kind) { return kind.laid ? `off:${kind.estimates[0].label}` : "exact"; }
  function by(kind) {
    const wanted = store.get().by || first(kind);
    return wanted === "exact" || kind.estimates.some((one) => one.alike && (one.label === wanted || `off:${one.label}` === wanted)) ? wanted : first(kind);
  }

  function draw() {
    const section = page.section();
    const kind = kindOf(section);
    const wide = Math.max(120, Math.min(place.clientWidth, 520)) - LEFT;
    if (layout.kind !== kind || layout.wide !== wide) layout = { kind, wide, ...laidOut(unitsOfKind(kind), Math.floor(wide / 5)) };
    const { cells, rows, columns, ranked } = layout;
    const how = by(kind);
    const values = cells.map(({ unit }) => valueOf(unit, how));
    const limit = limitOf(how.startsWith("off:") ? values : kind.exact.value);
    const width = Math.max(2, Math.min(34, Math.floor(wide / columns)));
    const height = Math.max(7, Math.min(width * 0.8, 420 / rows.length, 26));
    const size = [LEFT + width * columns + 2, height * rows.length + BELOW];
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = size.map((one) => Math.ceil(one * ratio));
    [canvas.style.width, canvas.style.height] = size.map((one) => `${one}px`);
    const ink = canvas.getContext("2d");
    ink.scale(ratio, ratio);
    const look = theme();
    const signed = how.startsWith("off:") && kind.laid; // a signed difference: neither result is the truth
    const supports = how.startsWith("off:") ? 0 : kind.supports;
    cells.forEach((cell, i) => {
      cell.x = LEFT + cell.column * width;
      cell.y = cell.row * height;
      ink.fillStyle = signed ? differenceColour(values[i], limit, look) : colourOf(values[i], limit, supports, look);
      ink.fillRect(cell.x, cell.y, width - (width > 5 ? 1 : 0), height - 1);
    });
    ink.fillStyle = look.axis.labelColor;
    ink.font = `10px ${look.font}`;
    ink.textAlign = "right";
    ink.textBaseline = "middle";
    const every = Math.ceil(11 / height);
    rows.forEach((layer, i) => { if ((rows.length - 1 - i) % every === 0) ink.fillText(layer, LEFT - 5, (i + 0.5) * height); });
    if (!ranked && columns > 1) {
      ink.textAlign = "center";
      const step = Math.ceil(16 / width);
      for (let k = 0; k < columns; k += step) ink.fillText(k, LEFT + (k + 0.5) * width, rows.length * height + 9);
    }
    drawn = { cells, width, height, kind, how, values, ink, look };
    outline();
    describe(kind, how, limit, supports, ranked && cells.length);
  }

  function outline() {
    const { cells, width, height, ink, look } = drawn;
    const chosen = new Set(store.get().units);
    const ends = new Set(page.section().circuits.flatMap((one) => [one, one.positions].filter(Boolean)).flatMap((one) => endsNamed(one, [...chosen])));
    for (const cell of cells) {
      if (!chosen.has(cell.unit.name) && !ends.has(cell.unit.name)) continue;
      ink.lineWidth = chosen.has(cell.unit.name) ? 2 : 1; // thin: an end of a chosen edge
      ink.strokeStyle = look.style.exact.color;
      ink.strokeRect(cell.x, cell.y, width, height);
    }
    ink.lineWidth = 2;
    if (cursor && document.activeElement === canvas) {
      const cell = cells.find((one) => one.unit.name === cursor);
      if (cell) {
        ink.strokeStyle = look.range.category[0];
        ink.setLineDash([3, 2]);
        ink.strokeRect(cell.x - 1, cell.y - 1, width + 2, height + 2);
        ink.setLineDash([]);
      }
    }
  }

  function describe(kind, how, limit, supports, ranked) {
    const first = kind.first !== "exact" ? [kind.first, kind.title].filter(Boolean).join(", ") : `exact ${kind.share ? "effect, share of the gap" : kind.title}`;
    const what = how === "exact" ? first : how.startsWith("off:") ? `${how.slice(4)} − ${kind.first}` : how;
    const signed = how.startsWith("off:") && kind.laid;
    const words = supports ? (supports < 0 ? "blue (−) supports the answer, orange (+) works against it" : "blue (+) supports the answer, orange (−) works against it") : signed ? `green (+) is higher in ${how.slice(4)}, purple (−) in ${kind.first}` : how.startsWith("off:") && !kind.laid ? "size of the difference" : "darker is larger, whatever its sign";
    const bar = el("i", { class: signed ? "apart" : supports ? (supports > 0 ? "reversed" : "") : "ramp" });
    const ends = supports || signed ? [shown(-limit, kind.share, kind.share ? 0 : 2), shown(limit, kind.share, kind.share ? 0 : 2)] : ["0", shown(limit, kind.share, kind.share ? 0 : 2).replace("+", "")];
    const along = ranked ? (ranked < kind.names.length ? `the ${ranked.toLocaleString("en")} strongest of their layers are shown` : "strongest first") : kind.index.some((index) => index >= 0) ? `by ${kind.one}` : kind.position.some((at) => at >= 0) ? "by position" : "";
    legend.replaceChildren(
      el("div", { class: "scale" }, el("span", {}, ends[0]), bar, el("span", {}, ends[1]), el("em", {}, words)),
      el("p", {}, `${kind.names.length.toLocaleString("en")} ${kind.many}, ${what}; a row is a layer, early ones at the bottom${along ? `, ${along}` : ""}.`, el("span", { class: "ask" }, " Click one, or use arrow keys and Enter.")),
    );
    canvas.setAttribute("aria-label", `Map of ${kind.names.length} ${kind.many}, ${what}. Arrow keys move, Enter chooses, Shift and Enter chooses one more.`);
  }

  function text(unit) {
    const estimates = unit.estimates.map((one) => `${one.label} ${shown(one.value, unit.kind.share && one.alike)}`);
    return [unit.name, `${unit.kind.first} ${shown(unit.exact, unit.kind.share)}`, ...estimates].join(" · ");
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { cells, width, height } = drawn;
    return cells.find((cell) => x >= cell.x && x < cell.x + width && y >= cell.y && y < cell.y + height);
  }

  function move(across, up) {
    const { cells } = drawn;
    const now = cells.find((cell) => cell.unit.name === cursor) || cells.reduce((a, b) => (Math.abs(b.unit.exact) > Math.abs(a.unit.exact) ? b : a));
    if (!cursor || !cells.some((cell) => cell.unit.name === cursor)) return go(now);
    const ahead = cells.filter((cell) => (across ? cell.row === now.row && Math.sign(cell.column - now.column) === across : Math.sign(now.row - cell.row) === up));
    const far = (cell) => (across ? Math.abs(cell.column - now.column) : Math.abs(cell.row - now.row) * 1000 + Math.abs(cell.column - now.column));
    if (ahead.length) go(ahead.reduce((a, b) => (far(b) < far(a) ? b : a)));
    return undefined;
  }
  function go(cell) {
    cursor = cell.unit.name;
    draw();
    speak(text(cell.unit));
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    if (moves[event.key]) move(...moves[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && cursor) page.pick(cursor, event.shiftKey || event.ctrlKey, canvas);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("focus", () => (cursor ? draw() : move(0, 0)));
  canvas.addEventListener("blur", draw);
  canvas.addEventListener("click", (event) => {
    const cell = under(event);
    if (cell) { cursor = cell.unit.name; page.pick(cursor, event.shiftKey || event.ctrlKey || event.metaKey, canvas); }
  });
  canvas.addEventListener("pointermove", (event) => {
    const cell = under(event);
    tip.hidden = !cell;
    canvas.style.cursor = cell ? "pointer" : "";
    if (!cell) return;
    tip.textContent = text(cell.unit);
    const across = canvas.parentElement.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(cell.x + drawn.width + 6, across))}px`;
    tip.style.top = `${cell.y + drawn.height + 4}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  function redraw() { options(); draw(); }
  return { redraw, draw };
}

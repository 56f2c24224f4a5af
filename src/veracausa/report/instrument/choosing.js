/* The one state of the page, and who listens to it. */

/* A store: `get()`, `set(changes, step)` (step: a step that the browser's Back undoes), `choose(name, more)`, `listen(f)`. */
export function makeStore(first) {
  let state = first;
  const listeners = [];
  function set(changes, step = false) {
    const before = state;
    state = { ...state, ...changes };
    for (const listener of listeners) listener(state, before, step);
  }
  /* Alone, or with `more` beside the others; what is chosen already is let go. */
  function choose(name, more = false) {
    const has = state.units.includes(name);
    if (more) return set({ units: has ? state.units.filter((one) => one !== name) : [...state.units, name] }, true);
    return set({ units: has && state.units.length === 1 ? [] : [name] }, true);
  }
  return { get: () => state, set, choose, listen: (listener) => listeners.push(listener) };
}

/* The units that pass the filters of a state: search, kind, layers ("3", "3-9"), sign, least size (percent of the gap). */
export function filtered(units, state) {
  const find = (state.find || "").trim().toLowerCase();
  const [from, to] = layerRange(state.layers);
  const least = Number.parseFloat(state.least) / (state.share === false ? 1 : 100) || 0;
  return units.filter((unit) => {
    if (unit.layer < from || unit.layer > to) return false;
    if (find && !unit.name.toLowerCase().includes(find) && !unit.said.toLowerCase().includes(find)) return false;
    if (state.sign && Math.sign(unit.exact) * unit.kind.supports !== (state.sign === "for" ? 1 : -1)) return false;
    return !least || Math.abs(unit.exact) >= least;
  });
}

/* "3" → [3, 3]; "3-9" → [3, 9]; "20-" → [20, ∞]; anything else: all layers. */
export function layerRange(text) {
  const found = /^\s*(\d+)\s*(?:([-–])\s*(\d*))?\s*$/.exec(text || "");
  if (!found) return [-Infinity, Infinity];
  const from = Number(found[1]);
  return [from, found[2] ? (found[3] ? Number(found[3]) : Infinity) : from];
}

/* Units in order: by size of the exact effect, by name, or by how far an estimate is off ("off:atp"), the largest first. */
export function sorted(units, sort) {
  const size = (value) => (value === null || Number.isNaN(value) ? -1 : Math.abs(value));
  if (sort === "name") {
    const order = (a, b) => a.layer - b.layer || a.index - b.index || a.position - b.position;
    return [...units].sort(order);
  }
  const label = (sort || "").startsWith("off:") ? sort.slice(4) : null;
  const sized = units.map((unit) => [size(label ? missOf(unit, label) : unit.exact), unit]);
  return sized.sort((a, b) => b[0] - a[0]).map(([, unit]) => unit);
}

/* Estimate − exact, of an estimate on the same scale; else null. */
export function missOf(unit, label) {
  const found = unit.kind.estimates.find((one) => one.label === label);
  const value = found && found.alike ? found.value[unit.at] : null;
  return value !== null && unit.exact !== null ? value - unit.exact : null;
}

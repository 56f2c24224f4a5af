/* Data as the page holds it, with columns in their places. */

/* The value with every {column: n} in it replaced by that column's list. `column`: reads one, as in page.js. */
export function filled(value, column) {
  if (Array.isArray(value)) return value.map((one) => filled(one, column));
  if (value === null || typeof value !== "object") return value;
  const keys = Object.keys(value);
  if (keys.length === 1 && keys[0] === "column") return column(value);
  return Object.fromEntries(keys.map((key) => [key, filled(value[key], column)]));
}

/* A unit of a kind, by its place in the kind's columns: name, layer, index, position, exact; the rest when it is asked. */
class Unit {
  constructor(kind, at) {
    Object.assign(this, { kind, at, name: kind.names[at], layer: kind.layer[at], index: kind.index[at], position: kind.position[at], exact: kind.exact.value[at] });
  }
  get low() { return this.kind.exact.low[this.at]; }
  get high() { return this.kind.exact.high[this.at]; }
  /* Its effect in every pair, or null. */
  get each() { return this.kind.each && this.kind.each.slice(this.at * this.kind.n, (this.at + 1) * this.kind.n); }
  get estimates() { return this.kind.estimates.map(({ value, low, high, ...one }) => ({ ...one, value: value[this.at], ...(low && { low: low[this.at], high: high[this.at] }) })); }
  /* "head 6 of layer 9" */
  get said() {
    const place = this.position >= 0 ? ` at position ${this.position}` : "";
    return this.kind.said.replace("{index}", this.index).replace("{layer}", this.layer) + place;
  }
}

/* The units of a kind, in the order of its columns; made once. */
export function unitsOfKind(kind) {
  kind.units ??= kind.names.map((_, at) => new Unit(kind, at));
  return kind.units;
}

/* A section's units by name: `get(name)`. Only the places of names are noted beforehand: there may be ten thousands. */
export function unitsOf(section) {
  const places = section.kinds.map((kind) => [kind, new Map(kind.names.map((name, at) => [name, at]))]);
  return {
    get(name) {
      const found = places.findLast(([, own]) => own.has(name));
      return found && (found[0].units ? found[0].units[found[1].get(name)] : new Unit(found[0], found[1].get(name)));
    },
  };
}

/* What findings tell of one unit: [{what, title, about, …its row}], in the order of the findings. */
export function toldOf(section, name) {
  const rows = [];
  for (const { columns = {}, units, ...one } of section.told) {
    if (one.what === "stream") continue;
    units.forEach((unit, i) => {
      if (unit === name) rows.push({ ...one, ...Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[i]])) });
    });
  }
  return rows;
}

/* The stream around a unit: the points right before and after the part of its layer, {point, …}; [] if none was read. */
export function streamOf(section, unit) {
  const told = section.told.find((one) => one.what === "stream");
  if (!told) return [];
  const { layer } = unit;
  const wanted = unit.name.startsWith("m") ? [`r${layer}+a${layer}`, `r${layer + 1}`] : [`r${layer}`, `r${layer}+a${layer}`];
  return wanted.filter((point) => told.units.includes(point)).map((point) => {
    const i = told.units.indexOf(point);
    return { point, ...Object.fromEntries(Object.entries(told.columns).map(([key, values]) => [key, values[i]])) };
  });
}

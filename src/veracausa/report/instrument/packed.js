/* Data as the page holds it, with columns in their places. */

/* The value with every {column: n} in it replaced by that column's list. `column`: reads one, as in page.js. */
export function filled(value, column) {
  if (Array.isArray(value)) return value.map((one) => filled(one, column));
  if (value === null || typeof value !== "object") return value;
  const keys = Object.keys(value);
  if (keys.length === 1 && keys[0] === "column") return column(value);
  return Object.fromEntries(keys.map((key) => [key, filled(value[key], column)]));
}

/* A section's units by name: {name, said, layer, index, position, kind, at, exact, low, high, each, estimates}. */
export function unitsOf(section) {
  const units = new Map();
  for (const kind of section.kinds) {
    kind.names.forEach((name, at) => {
      const each = kind.each ? kind.each.slice(at * kind.n, (at + 1) * kind.n) : null;
      const estimates = kind.estimates.map((one) => ({ ...one, value: one.value[at] }));
      const { value, low, high } = kind.exact;
      units.set(name, {
        name, kind, at, each, estimates, said: kind.said[at], layer: kind.layer[at], index: kind.index[at],
        position: kind.position[at], exact: value[at], low: low[at], high: high[at],
      });
    });
  }
  return units;
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

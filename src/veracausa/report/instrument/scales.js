/* Numbers as text and as colours: blue supports the behaviour, orange works against it, whatever sign that has. */

/* −44.0 %, of shares; +1.234 else; an en dash where there is no number. */
export function shown(value, share, digits = share ? 1 : 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(share ? 100 * value : value).toFixed(digits);
  const sign = Number(size) === 0 ? "" : value < 0 ? "−" : "+";
  return `${sign}${size}${share ? " %" : ""}`;
}

/* The same of what has no sign, such as a standard error. */
export function unsigned(value, share, digits) { return shown(value, share, digits).replace(/^[+−]/, ""); }

/* A colour of a list of stops, at 0 … 1. */
export function colourAt(stops, at) {
  const place = Math.min(1, Math.max(0, at)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(place));
  const [a, b] = [stops[i], stops[i + 1]].map((stop) => [1, 3, 5].map((k) => Number.parseInt(stop.slice(k, k + 2), 16)));
  return `rgb(${a.map((part, k) => Math.round(part + (b[k] - part) * (place - i))).join(",")})`;
}

/* The colour of a value on a scale of ±limit. `supports`: the sign that supports the behaviour; 0: magnitudes, grey. */
export function colourOf(value, limit, supports, theme) {
  if (value === null || !Number.isFinite(value)) return "transparent";
  if (!supports) return colourAt(theme.range.ramp, Math.abs(value) / limit);
  return colourAt(theme.range.diverging, 0.5 - (supports * value) / limit / 2);
}

/* The colour of B − A on a scale of ±limit: green where B is higher, purple where A is. */
export function differenceColour(value, limit, theme) {
  return value === null || !Number.isFinite(value) ? "transparent" : colourAt(theme.range.heatmap, 0.5 + value / limit / 2);
}

/* The largest size among numbers; 1 where all are 0 or none is known. */
export function limitOf(values) {
  return values.reduce((most, value) => (Number.isFinite(value) && value !== null ? Math.max(most, Math.abs(value)) : most), 0) || 1;
}

/* A few round numbers from low to high. */
export function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => (first + i) * step);
}

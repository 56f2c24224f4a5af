/* What is chosen, as a part of the address: #unit=a9.h6,m3&task=2-ten-pairs&kind=mlps&by=atp&at=cost */

/* Of the state, beside the units. */
export const FIELDS = ["task", "kind", "by", "find", "layers", "sign", "least", "sort", "pairs", "ranking", "size", "over", "edges", "reads", "measured", "groups", "at"];

/* The state that an address tells; a plain anchor, #cost, is {at: "cost"}. */
export function readAddress(hash) {
  const text = hash.replace(/^#/, "");
  if (!text.includes("=")) return text ? { units: [], at: decodeURIComponent(text) } : { units: [] };
  const parts = new URLSearchParams(text.replaceAll("+", "%2B"));
  const units = (parts.get("unit") || "").split(",").filter(Boolean).map(decodeURIComponent);
  const told = FIELDS.filter((name) => parts.get(name)).map((name) => [name, parts.get(name)]);
  return { units, ...Object.fromEntries(told) };
}

/* The address of a state: "" where nothing is chosen. */
export function writeAddress(state) {
  const parts = FIELDS.filter((name) => state[name]).map((name) => `${name}=${encodeURIComponent(state[name])}`);
  const units = state.units.map((name) => encodeURIComponent(encodeURIComponent(name))).join(",");
  if (units) parts.unshift(`unit=${units}`);
  if (parts.length === 1 && state.at) return `#${encodeURIComponent(state.at)}`;
  return parts.length ? `#${parts.join("&")}` : "";
}

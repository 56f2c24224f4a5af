/* A drawing surface that writes SVG: of a canvas it has what circuits are drawn with. */
import { el } from "./dom.js";

function round(value) { return Math.round(value * 100) / 100; }
export function escaped(text) {
  return String(text).replace(/[&<>"]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[one]);
}

/* `text()` gives the picture as a whole SVG file. */
export function makeInk(width, height, background) {
  const parts = [`<rect width="100%" height="100%" fill="${background}"/>`];
  let path = [];
  const place = (...values) => values.map(round).join(",");
  const ink = {
    fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, font: "10px sans-serif", textAlign: "left", textBaseline: "alphabetic", dash: [],
    beginPath() { path = []; },
    moveTo(x, y) { path.push(`M${place(x, y)}`); },
    lineTo(x, y) { path.push(`L${place(x, y)}`); },
    closePath() { path.push("Z"); },
    bezierCurveTo(...values) { path.push(`C${place(...values)}`); },
    arc(x, y, r) { path.push(`M${place(x - r, y)}a${place(r, r)} 0 1 0 ${place(2 * r, 0)}a${place(r, r)} 0 1 0 ${place(-2 * r, 0)}Z`); },
    rect(x, y, wide, high) { path.push(`M${place(x, y)}h${round(wide)}v${round(high)}h${round(-wide)}Z`); },
    setLineDash(dash) { ink.dash = dash; },
    stroke() {
      const dash = ink.dash.length ? ` stroke-dasharray="${ink.dash.join(" ")}"` : "";
      parts.push(`<path d="${path.join("")}" fill="none" stroke="${ink.strokeStyle}" stroke-width="${round(ink.lineWidth)}" stroke-linecap="round" opacity="${round(ink.globalAlpha)}"${dash}/>`);
    },
    fill() { parts.push(`<path d="${path.join("")}" fill="${ink.fillStyle}" opacity="${round(ink.globalAlpha)}"/>`); },
    fillText(text, x, y) {
      const anchor = { left: "start", center: "middle", right: "end" }[ink.textAlign];
      const down = ink.textBaseline === "middle" ? 0.35 * Number.parseFloat(/[\d.]+(?=px)/.exec(ink.font)[0]) : 0;
      const [, size, family] = /([\d.]+)px (.*)/.exec(ink.font);
      parts.push(`<text x="${round(x)}" y="${round(y + down)}" fill="${ink.fillStyle}" font-size="${size}" font-family="${escaped(family)}" text-anchor="${anchor}">${escaped(text)}</text>`);
    },
    text() { return `<svg xmlns="http://www.w3.org/2000/svg" width="${round(width)}" height="${round(height)}" viewBox="0 0 ${round(width)} ${round(height)}">${parts.join("\n")}</svg>\n`; },
  };
  return ink;
}

/* What `paint(ink)` draws on a scale, on white, as files: SVG, and PNG of twice as many pixels. */
export function svgOf(scale, paint) {
  const ink = makeInk(scale.width, scale.height, "#ffffff");
  paint(ink);
  return new Blob([ink.text()], { type: "image/svg+xml" });
}
export function pngOf(scale, paint) {
  const sheet = el("canvas", { width: 2 * scale.width, height: 2 * scale.height });
  const ink = sheet.getContext("2d");
  ink.fillStyle = "#ffffff";
  ink.fillRect(0, 0, sheet.width, sheet.height);
  ink.scale(2, 2);
  paint(ink);
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}

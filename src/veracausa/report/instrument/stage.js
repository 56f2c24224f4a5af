/* The canvas of a circuit: a tip on what lies under the pointer, a click or keys that choose it. */
import { under } from "./drawing.js";
import { el } from "./dom.js";

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/* `drawn()`: {view, scale, shown, touched}, what stands on the canvas; `draw()` draws it anew; `text({node} or {edge})`: the tip. */
export function makeStage(page, { drawn, draw, text }) {
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-roledescription": "drawing" });
  const tip = el("div", { class: "tip", hidden: true });
  const sheet = el("div", { class: "sheet" }, canvas); // scrolls sideways where the drawing is wider than the screen
  let cursor = null;
  let of = null; // the view that the cursor is a node of

  /* The canvas, cleared, so large and with so many pixels as the screen has. */
  function clear(scale) {
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [Math.ceil(scale.width * ratio), Math.ceil(scale.height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    [canvas.style.width, canvas.style.height, canvas.style.maxWidth] = [`${scale.width}px`, `${scale.height}px`, "none"];
    const ink = canvas.getContext("2d");
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, scale.width, scale.height);
    return { ink, ratio };
  }
  /* A ring around the node that the keys are on. */
  function point(ink) {
    const { view, scale } = drawn();
    if (cursor === null || of !== view || document.activeElement !== canvas) return;
    ink.strokeStyle = page.theme().range.category[0];
    ink.lineWidth = 2;
    ink.beginPath();
    ink.arc(scale.x(view.nodes.x[cursor]), scale.y(view.nodes.y[cursor]), 9, 0, 2 * Math.PI);
    ink.stroke();
  }
  function hit(event) {
    const box = canvas.getBoundingClientRect();
    const { view, scale, shown, touched } = drawn();
    return under(view, scale, shown, touched, event.clientX - box.left, event.clientY - box.top);
  }
  function move(across, up) {
    const { view, touched } = drawn();
    const { x, y } = view.nodes;
    const all = [...touched];
    if (!all.length) return;
    if (of !== view || !touched.has(cursor)) cursor = all.reduce((a, b) => (y[b] > y[a] ? b : a));
    else {
      const far = (i) => (across ? Math.abs(x[i] - x[cursor]) + 1000 * Math.abs(y[i] - y[cursor]) : Math.abs(x[i] - x[cursor]) + 1000 * Math.abs(y[i] - y[cursor]));
      const ahead = all.filter((i) => (across ? Math.abs(y[i] - y[cursor]) < 0.01 && Math.sign(x[i] - x[cursor]) === across : Math.abs(y[i] - y[cursor]) >= 0.01 && Math.sign(y[i] - y[cursor]) === up));
      if (ahead.length) cursor = ahead.reduce((a, b) => (far(b) < far(a) ? b : a));
    }
    of = view;
    draw();
    const at = drawn().scale.x(x[cursor]);
    if (at < sheet.scrollLeft + 20 || at > sheet.scrollLeft + sheet.clientWidth - 20) sheet.scrollLeft = at - sheet.clientWidth / 2;
    page.speak(text({ node: cursor }));
  }
  canvas.addEventListener("keydown", (event) => {
    if (MOVES[event.key]) move(...MOVES[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && cursor !== null && of === drawn().view) page.pick(of.nodes.name[cursor], event.shiftKey || event.ctrlKey, canvas);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("focus", () => (cursor === null || of !== drawn().view ? move(0, 0) : draw()));
  canvas.addEventListener("blur", draw);
  canvas.addEventListener("click", (event) => {
    const one = hit(event);
    const { view } = drawn();
    if (one?.node !== undefined) [cursor, of] = [one.node, view];
    if (one) page.pick(one.node === undefined ? view.edges.name[one.edge] : view.nodes.name[one.node], event.shiftKey || event.ctrlKey || event.metaKey, canvas);
  });
  canvas.addEventListener("pointermove", (event) => {
    const one = hit(event);
    tip.hidden = !one;
    canvas.style.cursor = one ? "pointer" : "";
    if (!one) return;
    tip.textContent = text(one);
    const box = sheet.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - box.top + 14}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  return { place: el("div", { class: "canvas" }, sheet, tip), canvas, clear, point };
}

/* Puts the page together: the state of the address, the map, the finder, the panel, and marks everywhere. */
import { FIELDS, readAddress, writeAddress } from "./address.js";
import { makeApart } from "./apart.js";
import { makeStore } from "./choosing.js";
import { CIRCUIT_FIELDS, makeCircuit, prepared } from "./circuit.js";
import { makeFinder } from "./finder.js";
import { makeMap } from "./map.js";
import { makeMarks } from "./marks.js";
import { filled, unitsOf } from "./packed.js";
import { makePanel } from "./panel.js";
import { makeSeeker } from "./seeker.js";

function start({ views, column, instrument, themes, scheme, about, save }) {
  const { sections, calls } = filled(instrument, column);
  const store = makeStore({ units: [], ...readAddress(location.hash) });
  const tables = new Map();
  for (const section of sections) section.circuits = (section.circuits || []).map(prepared);
  const every = new Set(sections.flatMap((section) => section.kinds.flatMap((kind) => kind.names)));
  for (const circuit of sections.flatMap((section) => section.circuits.flatMap((one) => [one, one.positions].filter(Boolean)))) for (const name of [...circuit.edges.name, ...circuit.nodes.name]) every.add(name);
  const spoken = document.getElementById("spoken");
  let from = null;

  const section = () => sections.find((one) => one.id === store.get().task) || sections[sections.length - 1];
  function units() {
    const now = section();
    if (!tables.has(now)) tables.set(now, unitsOf(now));
    return tables.get(now);
  }
  function speak(text) { spoken.textContent = text; }

  /* Chooses; a second Enter on what is chosen leads to the panel, and Escape back. */
  function pick(name, more, origin) {
    const only = store.get().units;
    if (!more && only.length === 1 && only[0] === name && origin) {
      from = origin;
      return panel.focus();
    }
    from = origin;
    store.choose(name, more);
    const unit = units().get(name);
    return speak(`${store.get().units.includes(name) ? "Chosen" : "Let go"}: ${name}${unit ? `, ${unit.said}` : ""}`);
  }
  function close() {
    store.set({ units: [] }, true);
    speak("Nothing is chosen");
    if (from && document.contains(from)) from.focus();
  }

  const page = {
    store, sections, calls, views, section, units, speak, pick, close, about, save, themes,
    theme: () => themes[scheme()], known: (name) => every.has(name), mark: (root) => marks.markTable(root),
  };
  const marks = makeMarks(page);
  const nothing = { redraw() {}, draw() {}, focus() {} };
  const mapped = sections.some((one) => one.kinds.length);
  const map = mapped ? makeMap(document.getElementById("where"), page) : nothing;
  const sought = document.getElementById("finder");
  const finder = mapped ? makeFinder(sought, page) : sought ? makeSeeker(sought, page, sections.flatMap((one) => one.circuits)) : nothing;
  const circuits = sections.flatMap((one) => one.circuits.map((circuit) => (circuit.sides ? makeApart : makeCircuit)(document.getElementById(circuit.place), page, circuit)));
  const panel = makePanel(document.getElementById("unit"), page);

  function redraw() {
    for (const circuit of circuits) circuit.soon();
    map.redraw();
    finder.redraw();
    panel.redraw();
    marks.redraw();
  }
  let wide = false;
  let writing = 0;
  function write(step = false) {
    const next = writeAddress(store.get());
    if (next !== location.hash) history[step === true ? "pushState" : "replaceState"](null, "", next || location.pathname + location.search);
  }
  store.listen((state, before, step) => {
    const changed = Object.keys({ ...state, ...before }).filter((name) => state[name] !== before[name]);
    const small = changed.every((name) => CIRCUIT_FIELDS.includes(name));
    clearTimeout(writing);
    if (small) { // a slider that moves; the browser takes only so many addresses a second
      writing = setTimeout(write, 200);
      for (const circuit of circuits) circuit.soon();
      return;
    }
    write(step);
    redraw();
    if (wide !== Boolean(state.units.length)) {
      wide = Boolean(state.units.length);
      window.dispatchEvent(new Event("resize")); // charts take the width that the panel leaves
    }
  });
  /* Back, forward, or an address typed in; a plain anchor leaves what is chosen as it is. */
  function read() {
    const told = readAddress(location.hash);
    const plain = !location.hash.includes("=");
    const fields = plain ? { at: told.at || "" } : { ...Object.fromEntries(FIELDS.map((name) => [name, ""])), ...told };
    if (plain && !location.hash) fields.units = [];
    store.set(fields);
    if (!plain) reach();
  }
  function reach() {
    const target = document.getElementById(store.get().at || "");
    if (!target) return;
    for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
    target.scrollIntoView({ behavior: "instant" });
  }
  window.addEventListener("popstate", read);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { map.draw(); for (const circuit of circuits) circuit.soon(); });
  window.addEventListener("resize", () => { map.draw(); for (const circuit of circuits) circuit.soon(); });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input, select, textarea");
    if (event.key === "/" && !typing) { event.preventDefault(); finder.focus(); }
    if (event.key === "Escape" && !typing && store.get().units.length && !document.querySelector(":popover-open")) close();
  });
  document.addEventListener("toggle", placeMeaning, true);
  wide = Boolean(store.get().units.length);
  redraw();
  reach();
  Object.assign(window.veracausa, { store, circuits });
}

/* What a word means opens under the word. */
function placeMeaning(event) {
  const meaning = event.target;
  if (event.newState !== "open" || !meaning.matches?.(".meaning")) return;
  const box = document.querySelector(`[popovertarget="${CSS.escape(meaning.id)}"]`).getBoundingClientRect();
  meaning.style.left = `${Math.max(8, Math.min(box.left, window.innerWidth - meaning.offsetWidth - 8))}px`;
  meaning.style.top = `${Math.min(box.bottom + 6, window.innerHeight - meaning.offsetHeight - 8)}px`;
}

if (globalThis.window?.veracausa) start(window.veracausa);

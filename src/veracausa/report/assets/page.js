"use strict";
/* Draws the charts as they come near, again when the colour scheme changes; sorts tables; marks the place in the contents. */
(() => {
  const { specs, themes } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const places = [...document.querySelectorAll("[data-view]")];
  const views = {};
  const drawing = {};

  function copy(value) { return JSON.parse(JSON.stringify(value)); }

  function merged(theme, own) {
    const config = copy(theme);
    for (const [key, value] of Object.entries(own || {})) config[key] = Object.assign(config[key] || {}, value);
    return config;
  }

  async function embed(place) {
    const id = place.dataset.view;
    const spec = copy(specs[id]);
    const scheme = dark.matches ? "dark" : "light";
    spec.config = merged(themes[scheme], spec.config);
    if (views[id]) views[id].finalize();
    const result = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      renderer: "canvas",
      tooltip: { theme: dark.matches ? "dark" : "light" },
      actions: { export: { png: true, svg: true }, source: false, compiled: false, editor: false },
      scaleFactor: 2,
      logLevel: 1, // errors only
    });
    views[id] = result.view;
    place.dataset.drawn = scheme;
    return result.view;
  }

  function draw(place) {
    const id = place.dataset.view;
    if (!drawing[id]) {
      drawing[id] = embed(place).catch((error) => {
        place.textContent = "This chart could not be drawn: " + error.message;
        throw error;
      });
    }
    return drawing[id];
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "900px 0px" });
  places.forEach((place) => near.observe(place));

  async function drawAll() {
    for (const place of places) await draw(place);
    return places.length;
  }
  window.addEventListener("beforeprint", drawAll);
  dark.addEventListener("change", () => {
    for (const place of places) {
      if (drawing[place.dataset.view]) {
        const before = drawing[place.dataset.view];
        drawing[place.dataset.view] = before.then(() => embed(place), () => embed(place));
      }
    }
  });

  function sort(table, column, button) {
    const head = button.closest("th");
    const numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : numeric;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => {
      const a = key(one), b = key(other);
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th button").forEach((button, column) => {
      button.addEventListener("click", () => sort(table, column, button));
    });
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
  const here = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  links.forEach((_, id) => { const target = document.getElementById(id); if (target) here.observe(target); });

  window.veracausa = { views, drawAll };
})();

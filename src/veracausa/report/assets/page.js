"use strict";
/* Draws the charts as they come near, again when the colour scheme changes or the page is printed; sorts tables; hands
   out tables and pictures as files; marks the place in the contents. */
(() => {
  const { specs, figures, tables, about, themes } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const scheme = () => (dark.matches && !paper.matches ? "dark" : "light");
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
    const now = scheme();
    spec.config = merged(themes[now], spec.config);
    if (views[id]) views[id].finalize();
    const result = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      renderer: "canvas",
      tooltip: { theme: now },
      actions: { export: { png: true, svg: true }, source: false, compiled: false, editor: false },
      scaleFactor: 2,
      logLevel: 1, // errors only
    });
    views[id] = result.view;
    place.dataset.drawn = now;
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
  function redraw() {
    for (const place of places) {
      if (drawing[place.dataset.view]) {
        const before = drawing[place.dataset.view];
        drawing[place.dataset.view] = before.then(() => embed(place), () => embed(place));
      }
    }
  }
  dark.addEventListener("change", redraw);
  paper.addEventListener("change", () => { if (dark.matches) redraw(); });

  /* What is folded is unfolded on paper, and folded again afterwards. */
  let opened = [];
  function unfold() {
    opened.push(...document.querySelectorAll("details.more:not([open])"));
    for (const one of opened) one.open = true;
    return drawAll();
  }
  window.addEventListener("beforeprint", unfold);
  window.addEventListener("afterprint", () => { for (const one of opened) one.open = false; opened = []; });

  function save(name, content, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function cell(value) {
    if (value === null || value === undefined) return "";
    const text = String(value);
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }
  function csv({ columns, rows }) {
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  function records({ columns, rows }) {
    return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }
  function whole() {
    return { ...about, tables: Object.fromEntries(Object.entries(tables).map(([name, table]) => [name, { title: table.title, note: table.note, rows: records(table) }])) };
  }
  const json = (value) => JSON.stringify(value, null, 1);

  function data(name) {
    return Object.assign({}, ...figures[name].parts.map((id) => specs[id].datasets));
  }
  function points(name) {
    return Object.fromEntries(Object.entries(data(name)).filter(([, rows]) => Object.keys(rows[0] || {}).length));
  }

  /* A whole figure, all its charts with their titles, on white as in the PNG beside the page. */
  async function picture(name, as) {
    const spec = copy(figures[name].spec);
    spec.datasets = data(name);
    spec.config = { ...themes.light, background: "#ffffff", padding: 16 };
    const options = { mode: "vega-lite", renderer: "canvas", actions: false, logLevel: 1 };
    const { view } = await vegaEmbed(document.createElement("div"), spec, options);
    try {
      if (as === "svg") return save(name + ".svg", await view.toSVG(), "image/svg+xml");
      const canvas = await view.toCanvas(2);
      return save(name + ".png", await new Promise((done) => canvas.toBlob(done, "image/png")));
    } finally { view.finalize(); }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { picture: drawn, points: shown, table, as, page } = button.dataset;
    if (drawn) picture(drawn, as);
    if (shown) save(shown + ".json", json(points(shown)), "application/json");
    if (table && as === "csv") save(table + ".csv", csv(tables[table]), "text/csv");
    if (table && as === "json") save(table + ".json", json(records(tables[table])), "application/json");
    if (page === "json") save("report.json", json(whole()), "application/json");
    if (page === "print") unfold().then(() => window.print());
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

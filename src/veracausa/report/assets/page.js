"use strict";
/* Draws the charts as they come near, again when the colour scheme changes or the page is printed; sorts tables; hands
   out tables and pictures as files; marks the place in the contents. */
(() => {
  const { specs, shared, figures, tables, about, themes, columns, instrument } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const scheme = () => (dark.matches && !paper.matches ? "dark" : "light");
  const places = [...document.querySelectorAll("[data-view]")];
  const views = {};
  const drawing = {};

  function copy(value) { return JSON.parse(JSON.stringify(value)); }
  /* A value with the parts that charts share in their places. */
  function unshared(value) {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(unshared);
    if (typeof value.shared === "number") return unshared(shared[value.shared]);
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, unshared(one)]));
  }

  function merged(theme, own) {
    const config = copy(theme);
    for (const [key, value] of Object.entries(own || {})) config[key] = Object.assign(config[key] || {}, value);
    return config;
  }

  const POWERS = Array.from({ length: 23 }, (_, k) => Number(`1e${k}`)); // exact
  /* Columns of numbers and texts stand once in the page: see docs/page.md. */
  const unpacked = [];
  function column({ column: at }) {
    if (!unpacked[at]) {
      const packed = columns[at];
      if (packed.bytes !== undefined) unpacked[at] = numbersIn(packed);
      else if (packed.words) unpacked[at] = packed.at.map((place) => packed.words[place]);
      else unpacked[at] = "repeat" in packed ? Array(packed.times).fill(packed.repeat) : packed;
    }
    return unpacked[at];
  }
  /* Numbers of a column that is written as bytes. */
  function numbersIn({ bytes, as }) {
    const text = atob(bytes);
    const raw = new Uint8Array(text.length); // loops: there may be a million numbers
    for (let i = 0; i < raw.length; i += 1) raw[i] = text.charCodeAt(i);
    if (as === "five") {
      const made = new Array(raw.length / 3);
      for (let i = 0; i < made.length; i += 1) made[i] = five(raw[3 * i] | (raw[3 * i + 1] << 8) | (raw[3 * i + 2] << 16));
      return made;
    }
    const kinds = { int8: Int8Array, int16: Int16Array, int32: Int32Array, single: Float32Array };
    return Array.from(new kinds[as](raw.buffer), (value) => (Number.isNaN(value) ? null : value));
  }
  /* 17 bits of digits, one of the sign, six of the exponent. */
  function five(code) {
    const [digits, power] = [code & 0x1ffff, (code >> 18) - 22];
    if (digits === 0x1ffff) return null;
    const size = power < 0 ? digits / POWERS[-power] : digits * POWERS[power];
    return code & 0x20000 ? -size : size;
  }
  function records(packed) {
    if (Array.isArray(packed)) return packed;
    const fields = Object.entries(packed.fields).map(([name, at]) => [name, column(at)]);
    return Array.from({ length: packed.rows }, (_, i) => Object.fromEntries(fields.map(([name, values]) => [name, values[i]])));
  }

  /* A chart with its data, as wide as its place; without legends where the figure has its scale above all charts. */
  function withData(id) {
    const { datasets: packed, ...spec } = unshared(specs[id]);
    return { ...spec, datasets: Object.fromEntries(Object.entries(packed).map(([name, rows]) => [name, records(rows)])) };
  }
  const quiet = new Set(Object.values(figures).filter((one) => !one.legends).flatMap((one) => one.parts));
  function withoutLegend(part) {
    if (Array.isArray(part)) return part.map(withoutLegend);
    if (part === null || typeof part !== "object") return part;
    return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, key === "legend" ? null : withoutLegend(value)]));
  }
  function fluid(id) {
    const { datasets, ...spec } = withData(id);
    const drawn = quiet.has(id) ? withoutLegend(spec) : spec;
    return { ...drawn, datasets, width: "container", autosize: { type: "fit-x", contains: "padding" } };
  }

  /* A whole figure, all its charts with their titles, as in the PNG beside the page. */
  function whole(name) {
    const { parts, width, columns: across, heads, colour } = figures[name];
    const charts = parts.map(withData);
    const datasets = Object.assign({}, ...charts.map((one) => one.datasets));
    const concat = charts.map(({ datasets: own, ...spec }, i) => ({ ...spec, width, title: heads[i].title }));
    if (concat.length === 1) return { ...concat[0], datasets };
    return { columns: across, concat, ...(colour ? { resolve: { scale: { color: colour } } } : {}), datasets };
  }

  async function embed(place) {
    const id = place.dataset.view;
    const spec = fluid(id);
    const now = scheme();
    spec.config = merged(themes[now], spec.config);
    if (views[id]) views[id].finalize();
    const result = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      renderer: "canvas",
      tooltip: { theme: now },
      actions: false, // its downloads stand below the figure; a menu of its own would be one more stop for keys
      scaleFactor: 2,
      logLevel: 1, // errors only
    });
    views[id] = result.view;
    place.dataset.drawn = now;
    place.dispatchEvent(new CustomEvent("drawn", { bubbles: true, detail: result.view }));
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
    unfolded();
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
  function unfolded() {
    opened.push(...document.querySelectorAll("main details:not([open])"));
    for (const one of opened) one.open = true;
  }
  window.addEventListener("beforeprint", () => { document.querySelector("nav details").open = true; drawAll(); });
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
  function rows({ values }) {
    const filled = values.map(column);
    return filled.length ? filled[0].map((_, i) => filled.map((one) => one[i])) : [];
  }
  function csv(table) {
    return [table.columns, ...rows(table)].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  function objects(table) {
    return rows(table).map((row) => Object.fromEntries(table.columns.map((name, i) => [name, row[i]])));
  }
  function everything() {
    return { ...about, tables: Object.fromEntries(Object.entries(tables).map(([name, table]) => [name, { title: table.title, note: table.note, rows: objects(table) }])) };
  }
  const json = (value) => JSON.stringify(value, null, 1);

  function points(name) {
    return Object.fromEntries(Object.entries(whole(name).datasets).filter(([, rows]) => Object.keys(rows[0] || {}).length));
  }

  /* What a figure's tips call its fields: [[field, title], …], in their order. */
  function tipsOf(spec, found = new Map()) {
    if (Array.isArray(spec)) for (const one of spec) tipsOf(one, found);
    else if (spec && typeof spec === "object") {
      for (const tip of [spec.tooltip ?? []].flat()) if (tip.field && !found.has(tip.field)) found.set(tip.field, tip.title || tip.field);
      for (const [key, value] of Object.entries(spec)) if (key !== "datasets") tipsOf(value, found);
    }
    return found;
  }
  function made(tag, attributes, ...children) {
    const one = Object.assign(document.createElement(tag), attributes);
    one.append(...children);
    return one;
  }
  const MOST = 300;
  /* The numbers behind a figure's charts as tables, under it; a second click takes them away. */
  function numbers(name, button) {
    const below = button.closest("figure").querySelector(".numbers");
    button.setAttribute("aria-expanded", String(!below));
    if (below) return below.remove();
    const spec = whole(name);
    const tips = tipsOf(spec);
    const place = made("div", { className: "numbers scroll", tabIndex: 0 });
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", "Numbers of " + name);
    for (const rows of Object.values(spec.datasets)) {
      const fields = [...tips.keys()].filter((field) => field in (rows[0] || {}));
      if (!fields.length) continue;
      const shown = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))).replace("-", "−") : value ?? "–");
      const body = rows.slice(0, MOST).map((row) => made("tr", {}, ...fields.map((field) => made("td", { className: typeof row[field] === "number" ? "number" : "text" }, shown(row[field])))));
      const heads = fields.map((field) => made("th", { scope: "col" }, tips.get(field)));
      place.append(made("table", {}, made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...body)));
      if (rows.length > MOST) place.append(made("p", { className: "note" }, `The first ${MOST} of ${rows.length.toLocaleString("en")} rows; the data (JSON) hold all.`));
    }
    if (!place.children.length) place.append(made("p", { className: "note" }, "No mark of this figure has numbers of its own; the data (JSON) hold all that is drawn."));
    button.closest("figure").append(place);
    return place.dispatchEvent(new CustomEvent("listed", { bubbles: true }));
  }

  /* A whole figure, on white. */
  async function picture(name, as) {
    const spec = whole(name);
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
    const { picture: drawn, points: shown, numbers: listed, table, as, page } = button.dataset;
    if (listed) numbers(listed, button);
    if (drawn) picture(drawn, as);
    if (shown) save(shown + ".json", json(points(shown)), "application/json");
    if (table && as === "csv") save(table + ".csv", csv(tables[table]), "text/csv");
    if (table && as === "json") save(table + ".json", json(objects(tables[table])), "application/json");
    if (page === "json") save("report.json", json(everything()), "application/json");
    if (page === "print") drawAll().then(() => window.print());
  });

  /* A column of a table in full, where the page has it: what is shown is rounded. */
  function numbersOf(table, name) {
    const own = tables[table.closest(".table").id];
    return own && column(own.values[own.columns.indexOf(name)]);
  }
  function sort(table, at, button) {
    const head = button.closest("th");
    const numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : numeric;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const known = numeric && numbersOf(table, head.dataset.column);
    rows.forEach((row, i) => { row.first ??= i; });
    const key = (row) => {
      if (known) return known[row.first] ?? "";
      const one = row.cells[at];
      return one.dataset.key ?? (one.textContent === "–" ? "" : one.textContent);
    };
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

  /* What an address points into is unfolded; the contents are folded where they stand above the text. */
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", reveal);
  reveal();
  const beside = window.matchMedia("(min-width: 1120px)");
  const contents = document.querySelector("nav details");
  function unfoldContents() { contents.open = beside.matches || paper.matches; }
  paper.addEventListener("change", unfoldContents);
  beside.addEventListener("change", unfoldContents);
  unfoldContents();

  window.veracausa = { views, drawAll, whole, column, instrument, themes, scheme, about, save };
})();

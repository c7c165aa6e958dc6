// Charts: a figure with one Vega view per panel, drawn when it comes into sight; pointer, click, keyboard, numbers.

const ERRORS = 1; // Vega's log level: an arm that is hidden leaves axes without an extent, of which it would warn
const tooltip = document.getElementById("tooltip");

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const svgElement = (name, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

class Chart {
  constructor(view) {
    this.view = view;
    this.panels = new Map();
    this.dirty = true;
    this.visible = false;
    this.drawing = Promise.resolve();
    this.host = element("div", { class: "panels" });
    this.host.style.minHeight = `${expectedHeight(view)}px`; // so that nothing moves when it is drawn
    this.note = element("p", { text: view.note, hidden: !view.note });
    this.figure = element("figure", { id: `view-${view.name}`, class: view.shape },
      element("figcaption", {}, element("h3", { text: view.title }), this.note), this.host, this.numbers());
  }

  /** What is shown has changed: draw it at once where it is seen, soon where it is not. */
  update() {
    this.dirty = true;
    delete document.body.dataset.drawn;
    if (this.visible) this.drawNext();
    drawRestSoon();
    return this.drawing;
  }

  /** Draw what has changed, once what is being drawn is done. */
  drawNext() {
    this.drawing = this.drawing.then(() => this.dirty && this.draw());
    return this.drawing;
  }

  remove() {
    for (const panel of this.panels.values()) panel.remove();
    this.panels.clear();
    this.figure.remove();
  }

  async draw() {
    this.dirty = false;
    const panels = SHAPES[this.view.shape](this.view);
    this.figure.hidden = ["heatmap", "trajectories"].includes(this.view.shape) && panels.length === 0;
    if (this.view.shape === "ridges") [this.note.textContent, this.note.hidden] = [ridgeNote(panels), false];
    this.host.classList.toggle("one", panels.length < 2);
    for (const [key, panel] of this.panels) if (!panels.some((wanted) => wanted.key === key)) panel.remove(), this.panels.delete(key);
    for (const wanted of panels) {
      if (!this.panels.has(wanted.key)) this.panels.set(wanted.key, new (this.view.shape === "ridges" ? Ridges : Panel)(this, this.host));
      await this.panels.get(wanted.key).draw(wanted);
    }
    this.host.style.minHeight = "";
    if (this.details.open) this.fillNumbers();
  }

  rows() {
    return SHAPES[this.view.shape](this.view).flatMap(({ label, rows }) => [...rows].map((row) => ({ panel: label ?? "", ...row })));
  }

  numbers() {
    this.table = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers of ${this.view.title}` });
    const save = element("button", { type: "button", text: "Save as CSV", onclick: () => saveCsv(this.view.name, numbersOf(this.rows())) });
    this.details = element("details", { ontoggle: () => this.details.open && this.fillNumbers() }, element("summary", { text: "Numbers" }), save, this.table);
    return this.details;
  }

  fillNumbers() {
    const rows = numbersOf(this.rows());
    this.table.replaceChildren(tableElement(rows.slice(0, 401)));
    if (rows.length > 401) this.table.append(element("p", { text: `The first 400 of ${rows.length - 1} rows; the CSV has all.` }));
  }
}

/** The height of a figure's panels in pixels, before it is drawn. */
function expectedHeight({ shape, spec, name }) {
  if (shape === "heatmap") return name === overviewAtFirst() ? 95 + 17 * page.layers.length : 0;
  return shape === "ridges" ? 430 : shape === "densities" ? 240 : spec.height;
}

const overviewAtFirst = () => page.views.find(({ section }) => section === "layers")?.name;

class Panel {
  constructor(chart, host) {
    this.chart = chart;
    this.heading = element("h4");
    this.caption = element("p");
    this.plot = element("div", { class: "plot", tabindex: 0, role: "img", "data-clickable": ["curves", "heatmap", "trajectories"].includes(this.view.shape) });
    this.box = element("div", { class: "panel" }, this.heading, this.caption, this.plot);
    host.append(this.box);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.focus(null));
    this.plot.addEventListener("click", (event) => this.choose(this.nearest(event)));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("blur", () => this.focus(null));
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.plot);
  }

  get view() {
    return this.chart.view;
  }

  remove() {
    this.sizes.disconnect();
    this.vega?.finalize();
    this.box.remove();
  }

  async draw({ label, caption, rows, signals, height, log, bare }) {
    this.heading.textContent = label ?? "";
    this.heading.hidden = !label;
    this.caption.textContent = caption ?? "";
    this.caption.hidden = !caption;
    this.rows = rows;
    this.plot.hidden = Boolean(bare);
    if (bare) return; // the caption says it all
    const what = `${this.view.title}${label ? `, ${label}` : ""}.`;
    this.plot.setAttribute("aria-label", `${what} ${describe(rows)} Arrow keys read the values.`);
    if (!this.vega || this.log !== log) return this.embed(log, [...rows], { ...signals, ...(height ? { height } : {}) });
    this.vega.data("rows", [...rows]);
    if (this.hasFocus) this.vega.data("focus", []);
    for (const [name, value] of Object.entries(signals ?? {})) {
      if (String(this.vega.signal(name)) !== String(value)) this.vega.signal(name, value);
    }
    if (height) this.vega.height(height);
    return this.resize();
  }

  /** Draw for the first time, or on another kind of axis: everything is in the spec, so that one pass does. */
  async embed(log, rows, signals) {
    this.vega?.finalize();
    this.log = log;
    const spec = structuredClone(this.view.spec);
    if (log) spec.encoding.y.scale = { type: "log", nice: false };
    const uses = (data) => JSON.stringify(spec).includes(`{"name":"${data}"}`);
    this.hasFocus = uses("focus");
    spec.datasets = { rows, ...(this.hasFocus ? { focus: [] } : {}), ...(uses("stages") ? { stages: page.stages.map((one) => ({ ...one, colour: `var(--${one.number % 2 ? "line" : "muted"})` })) } : {}) };
    for (const param of spec.params ?? []) param.value = signals[param.name] ?? param.value;
    this.drawnWidth = this.width();
    Object.assign(spec, { width: this.drawnWidth, height: signals.height ?? spec.height, autosize: { type: "fit", contains: "padding" } });
    const options = { mode: "vega-lite", ast: true, actions: false, renderer: "svg", tooltip: false, logLevel: ERRORS, defaultStyle: false, config: page.config };
    const holder = element("div", { "aria-hidden": "true" });
    this.plot.replaceChildren(holder);
    this.vega = (await vegaEmbed(holder, spec, options)).view;
  }

  /** Fit what is drawn to the width that there is, once more also where that is the same: labels may be longer. */
  resize() {
    this.drawnWidth = this.width();
    return this.vega.width(this.drawnWidth).runAsync();
  }

  width() {
    return Math.max(220, Math.floor(this.plot.clientWidth));
  }

  fit() {
    if (this.vega && this.plot.clientWidth && this.drawnWidth !== this.width()) this.resize();
  }

  /** The row that is nearest to the pointer, among those that are drawn. */
  nearest(event) {
    if (!this.vega || !this.rows?.length) return null;
    const box = this.plot.querySelector("svg").getBoundingClientRect();
    const [left, top] = this.vega.origin();
    const x = event.clientX - box.left - left;
    const y = event.clientY - box.top - top;
    return nearestRow([...this.rows].filter((row) => !row.band), this.positions(), x, y, this.view.shape === "heatmap");
  }

  positions() {
    const [x, y] = [this.vega.scale("x"), this.vega.scale("y")];
    const half = (scale) => (scale.bandwidth ? scale.bandwidth() / 2 : 0);
    if (this.view.shape === "heatmap") return (row) => [x((row.x + row.x2) / 2), y(row.layer) + half(y)];
    if (this.view.shape === "rates") return (row) => [x(row.x) + half(x) + row.shift, row.kind === "diverged" ? this.vega.height() - 10 : y(row.y)];
    return (row) => [x(row.x), y(row.y)];
  }

  point(event) {
    const row = this.nearest(event);
    this.focus(row, event.clientX, event.clientY);
  }

  choose(row) {
    if (!row) return;
    if (row.run !== undefined) toggleRun(row.run);
    else if (row.layer !== undefined) chooseLayer(row.layer);
    else if (row.channel !== undefined) keepLit(row.channel);
  }

  focus(row, x, y) {
    this.focused = row;
    if (this.vega && this.hasFocus) this.vega.data("focus", row ? [{ ...row, shape: row.shape ?? "circle" }] : []).runAsync();
    if (this.view.shape === "trajectories") pointAt(row?.channel ?? null);
    if (row) showTooltip(this.describeRow(row), x, y);
    else tooltip.hidden = true;
  }

  describeRow(row) {
    const what = { curves: "epoch", trajectories: "step", heatmap: "step", densities: "value", rates: this.view.name.startsWith("sweep_") ? this.view.name.slice(6).replaceAll("_", " ") : "learning rate" }[this.view.shape];
    return `${row.name}\n${what} ${typeof row.level === "string" ? row.level : number(row.level ?? row.x)}: ${row.kind === "diverged" ? "no final accuracy" : number(row.y)}`;
  }

  /** Left and right go along a line, up and down to the next one, Enter selects, Escape leaves. */
  key(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Escape") return this.focus(null);
    if ((event.key === "Enter" || event.key === " ") && this.focused) {
      event.preventDefault();
      return this.choose(this.focused);
    }
    if (!(event.key in moves) || !this.rows?.length) return undefined;
    event.preventDefault();
    const lines = [...groupBy(this.rows.filter((row) => !row.mean && !row.band), (row) => row.series ?? row.layer ?? row.run).values()];
    let line = lines.findIndex((own) => own.includes(this.focused));
    let at = line < 0 ? 0 : lines[line].indexOf(this.focused);
    if (line >= 0) [line, at] = [line + moves[event.key][0], at + moves[event.key][1]];
    line = (Math.max(line, line < 0 && this.focused ? lines.length - 1 : 0)) % lines.length;
    at = Math.max(0, Math.min(at, lines[line].length - 1));
    const row = lines[line][at];
    const box = this.plot.querySelector("svg").getBoundingClientRect();
    const [x, y] = this.positions()(row);
    const [left, top] = this.vega.origin();
    return this.focus(row, box.left + left + x, box.top + top + y);
  }
}

function showTooltip(text, x, y) {
  tooltip.hidden = false;
  tooltip.textContent = text;
  const { width, height } = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  tooltip.style.top = `${Math.max(4, y + height + 20 > innerHeight ? y - height - 10 : y + 16)}px`;
}

function nearestRow(rows, position, x, y, cells) {
  let best = null;
  let least = Infinity;
  for (const row of rows) {
    const [at, height] = position(row);
    const distance = cells ? Math.abs(at - x) + 1e4 * Math.abs(height - y) : (at - x) ** 2 * 4 + (height - y) ** 2;
    if (distance < least) [best, least] = [row, distance];
  }
  return best;
}

function describe(rows) {
  const finite = [...rows].filter((row) => Number.isFinite(row.y));
  if (!finite.length) return "Nothing to draw.";
  const names = new Set(finite.map((row) => row.name));
  let [low, high] = [Infinity, -Infinity];
  for (const { y } of finite) [low, high] = [Math.min(low, y), Math.max(high, y)];
  return `${names.size} ${names.size === 1 ? "series" : "series"}, values from ${number(low)} to ${number(high)}.`;
}

/** [header, ...rows] of what a chart shows, as text. */
function numbersOf(rows) {
  const header = ["panel", "name", "x", "y"];
  return [header, ...rows.map((row) => header.map((key) => (typeof row[key] === "number" ? number(row[key]) : String(row[key] ?? ""))))];
}

function tableElement([header, ...rows]) {
  return element("table", {},
    element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col" })))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text) => element("td", { text }))))));
}

/** Offer rows of text as a CSV file. A cell that a spreadsheet would take for a formula gets an apostrophe. */
function saveCsv(name, rows) {
  const cell = (text) => {
    const plain = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const text = rows.map((row) => row.map((value) => cell(String(value))).join(",")).join("\r\n");
  const link = element("a", { download: `${name}.csv`, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

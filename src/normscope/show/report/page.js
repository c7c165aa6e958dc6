// The page: headline, sections, the controls, and what they change.

const main = document.getElementById("main");
const charts = page.views.map((view) => new Chart(view));
const byName = (list, name) => list.find((item) => item.name === name);
const chartsOf = (section) => charts.filter((chart) => chart.view.section === section);

function update(...sections) {
  return Promise.all(charts.filter((chart) => !sections.length || sections.includes(chart.view.section)).map((chart) => chart.update()));
}

// -- headline

function swatch({ colour, dash }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "line");
  const attributes = { x1: 0, x2: 26, y1: 6, y2: 6, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash };
  for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  svg.append(line);
  return svg;
}

function summaryTable() {
  const header = ["learning rate", "arm", "final test accuracy", "n", "every seed", "epochs to threshold", "gradient norm variation", "diverged"];
  const numeric = new Set([0, 3, 5, 6, 7]);
  const head = header.map((text, k) => element("th", { text, scope: "col", class: numeric.has(k) ? "number" : "" }));
  const rows = page.summary.map((row, k) => {
    const arm = page.arms[row.arm];
    const seeds = element("div", { class: "seeds" }, ...row.seeds.map((text) => element("span", { text })));
    const cells = [number(row.rate), arm.label, row.accuracy, String(row.n), seeds, row.threshold, row.variation, String(row.diverged)];
    const made = cells.map((cell, at) =>
      cell instanceof Node ? element("td", {}, cell) : element("td", { text: cell, class: numeric.has(at) ? "number" : at === 1 ? "name" : "short" }));
    made[1].prepend(swatch(arm), " ");
    return element("tr", { class: page.summary[k + 1]?.rate !== row.rate ? "group" : "" }, ...made);
  });
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Summary" },
    element("table", { id: "summary" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
}

function headline() {
  const made = page.problems.map((text) => element("p", { class: "problem", text: `Not shown: ${text}` }));
  if (!page.summary.length && !page.recordings.length && !page.findings.length) made.push(element("p", { text: "There is no run to show so far." }));
  if (page.summary.length) {
    const keys = ["label", "status", "epochs", "test_accuracy", "train_loss", "seconds", "error", "id"];
    const rows = () => [keys, ...page.runs.map((run) => keys.map((key) => String(run[key] ?? "")))];
    made.push(summaryTable(), element("p", { class: "note", text: page.summary_note }),
      element("button", { type: "button", text: "Save all runs as CSV", onclick: () => saveCsv("runs", rows()) }));
  }
  return element("section", { id: "headline", "aria-label": "Result" }, ...made);
}

const MARKS = { supported: "✓", contradicted: "✗", "no difference": "=", "cannot tell": "?" };

/** The claims with their verdicts: what was measured, its effect with an interval, every seed's value. */
function claims() {
  const header = ["claim", "verdict", "effect [95%]", "n", "every seed"];
  const subjects = new Set(page.verdicts.map((row) => row.subject));
  const rows = page.verdicts.map((row) => {
    const words = [row.claim, ...(subjects.size > 1 ? [row.subject] : [])];
    const claim = element("td", { class: "claim" }, element("div", {}, element("strong", { text: words.join(" · ") }), ` ${row.statement}`),
      element("div", { class: "quantity", text: `Measured: ${row.quantity}` }));
    const verdict = element("td", { class: "verdict" }, element("div", { class: "short", text: `${MARKS[row.verdict]} ${row.verdict}` }),
      ...(row.needs ? [element("div", { class: "quantity", text: `To settle it: ${row.needs}` })] : []));
    const seeds = element("td", { class: "values" }, ...row.values.map((text) => element("div", { text })));
    return element("tr", {}, claim, verdict, element("td", { class: "effect", text: row.effect }), element("td", { class: "number", text: String(row.n) }), seeds);
  });
  return element("section", { id: "claims", "aria-labelledby": "claims-title" },
    element("h2", { id: "claims-title", text: "Claims, judged from these runs" }),
    element("p", { class: "note", text: "Each claim's quantity and test were fixed before the runs. “Cannot tell” is an answer: it says what would settle it." }),
    element("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Claims" },
      element("table", {}, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col", class: text === "n" ? "number" : "" })))), element("tbody", {}, ...rows))));
}

const SEVERITIES = { error: "✗ error", warning: "! warning", info: "i info" };

/** What a check of a model found: a row for each cause, with its evidence and what to do. */
function findings(check, k) {
  const header = ["severity", "rule", "found", "layers", "evidence", "remedy"];
  const rows = check.causes.map(({ severity, rule, message, layers, evidence, remedy }) =>
    element("tr", {}, element("td", { text: SEVERITIES[severity], class: `short ${severity}` }), element("td", { text: rule, class: "name" }), element("td", { text: message, class: "claim" }),
      element("td", {}, layerNames(layers)), element("td", { text: evidence, class: "evidence" }), element("td", { text: remedy, class: "claim" })));
  const table = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Findings of ${check.model || "the model"}` },
    element("table", {}, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col" })))), element("tbody", {}, ...rows)));
  const undecided = check.undecided.length
    ? [element("details", {}, element("summary", { text: "Not enough data to tell" }), element("p", { text: "What is missing, and the rules that need it:" }), element("ul", {}, ...check.undecided.map((text) => element("li", { text }))))] : [];
  return element("section", { id: k ? `findings-${k}` : "findings", "aria-labelledby": `findings-title-${k}` },
    element("h2", { id: `findings-title-${k}`, text: "Findings" }), element("p", { text: check.totals }), ...(rows.length ? [table] : []), ...undecided);
}

const SHOWN_LAYERS = 6;

function layerNames(layers) {
  if (layers.length <= SHOWN_LAYERS) return element("span", { text: layers.join(", ") });
  return element("details", {}, element("summary", { text: `${layers.length} layers` }), element("span", { text: layers.join(", ") }));
}

// -- controls

function choice(text, checked, change, picture) {
  const box = element("input", { type: "checkbox", onchange: (event) => change(event.target.checked) });
  box.checked = checked;
  return element("label", {}, box, ...(picture ? [picture] : []), element("span", { text }));
}

function choices(name, items, hidden) {
  const set = element("fieldset", { class: items.length > 8 ? "many" : "" }, element("legend", { text: name }));
  for (const { key, label, picture } of items) {
    set.append(choice(label, !hidden.has(key), (on) => { hidden[on ? "delete" : "add"](key); state.armsChosen = true; update(); }, picture));
  }
  return set;
}

function dropdown(name, options, value, change) {
  const list = element("select", { "aria-label": name, onchange: (event) => change(event.target.value) },
    ...options.map(([key, text]) => element("option", { value: key, text })));
  list.value = value;
  return element("label", {}, element("span", { text: name }), list);
}

function slider(name, { least = 0, most, step = 1, value, say, change, playing }) {
  const input = element("input", { type: "range", "aria-label": name, min: least, max: most, step, value });
  const output = element("output", { text: say(value) });
  const set = (to) => {
    input.value = to;
    output.textContent = say(Number(to));
    input.setAttribute("aria-valuetext", say(Number(to)));
    return change(Number(to));
  };
  input.addEventListener("input", () => set(input.value));
  input.setAttribute("aria-valuetext", say(value));
  return element("span", { class: "control" },
    element("label", {}, element("span", { text: name }), input), output, ...(playing ? [playButton(input, set)] : []));
}

/** Plays a slider from where it is to its end, slowly enough to follow; pressed again, it stops. */
function playButton(input, set) {
  let going = false;
  const button = element("button", { type: "button", text: "Play" });
  const stop = () => { going = false; button.textContent = "Play"; };
  button.addEventListener("click", async () => {
    if (going) return stop();
    going = true;
    button.textContent = "Stop";
    if (input.value === input.max) await set(input.min);
    while (going && Number(input.value) < Number(input.max)) {
      await new Promise((done) => setTimeout(done, 600));
      if (going) await set(Number(input.value) + 1);
    }
    return stop();
  });
  return button;
}

function toggleRun(run) {
  state.selected[state.selected.has(run) ? "delete" : "add"](run);
  showSelection();
  update("rates", "sweeps", "curves", "activations");
}

const selection = element("fieldset", { hidden: true });

function showSelection() {
  selection.hidden = state.selected.size === 0;
  const clear = element("button", { type: "button", text: "Clear", onclick: () => { state.selected.clear(); state.onlySelected = false; showSelection(); update(); } });
  const chips = [...state.selected].map((run) =>
    element("button", { type: "button", text: `${page.runs[run].label} ×`, "aria-label": `Deselect ${page.runs[run].label}`, onclick: () => toggleRun(run) }));
  const only = choice("only these", state.onlySelected, (on) => { state.onlySelected = on; update(); });
  selection.replaceChildren(element("legend", { text: "Selected" }), ...chips, only, clear);
}

function runControls() {
  const rates = [...new Set(page.runs.map((run) => run.rate))].sort((a, b) => a - b);
  const seeds = [...new Set(page.runs.map((run) => run.seed))].sort((a, b) => a - b);
  const options = [...rates.map((rate) => [String(rate), number(rate)]), ["all", "all"]];
  const made = [choices("Arms", page.arms.map((arm, key) => ({ key, label: arm.label, picture: swatch(arm) })), state.hiddenArms)];
  if (seeds.length > 1) made.push(choices("Seeds", seeds.map((key) => ({ key, label: String(key) })), state.hiddenSeeds));
  if (rates.length > 1) made.unshift(dropdown("Learning rate", options, String(state.rate), (value) => { state.rate = value === "all" ? null : Number(value); state.rateChosen = true; update("sweeps", "curves", "activations"); }));
  return element("div", { class: "toolbar", role: "group", "aria-label": "Runs shown" }, ...made, selection);
}

/** The box for logarithmic axes. Every section has one, and all of them say the same. */
function logChoice() {
  const label = choice("Log axis", state.log, (on) => {
    state.log = on;
    for (const box of document.querySelectorAll("input[data-log]")) box.checked = on;
    update("curves", "layer");
  });
  label.querySelector("input").dataset.log = "";
  return label;
}

const capturedEpochs = () =>
  [...new Set(chartsOf("activations").flatMap(({ view }) => [...tableOf(view).columns.epoch]))].sort((a, b) => a - b);

const overviews = () => chartsOf("layers").map(({ view }) => [view.name, view.title]);

/** The steps at which the chosen layer's distributions were recorded. */
function frames() {
  const ridges = chartsOf("layer").find(({ view }) => view.shape === "ridges");
  return ridges ? framesOf(ridges.view) : [];
}

const updateRidges = () => Promise.all(chartsOf("layer").filter(({ view }) => view.shape === "ridges").map((chart) => chart.update()));

/** {section: [what its controls depend on, the controls]}. */
const LOCAL_CONTROLS = {
  curves: [() => null, () => [logChoice(), slider("Smoothing", { most: 0.95, step: 0.05, value: state.smoothing, say: (value) => value.toFixed(2), change: (value) => { state.smoothing = value; return update("curves"); } })]],
  activations: [capturedEpochs, (epochs) =>
    [slider("Epoch", { most: epochs.length - 1, value: state.epoch, say: (at) => `${epochs[at]}`, change: (at) => { state.epoch = at; return update("activations"); }, playing: true })]],
  layers: [() => [overviews(), page.layers, page.recordings, [...state.recordings]], ([names]) =>
    [dropdown("Show", names, state.overview, (name) => { state.overview = name; update("layers"); }), layerList(), recordingChoices()]],
  layer: [frames, (steps) => [logChoice(), ...(steps.length < 2 ? [] : [frameSlider(steps)])]],
};

function layerList() {
  const label = dropdown("Layer", page.layers.map((name, k) => [String(k), name]), String(state.layer), (value) => chooseLayer(Number(value), false));
  label.querySelector("select").id = "layer-list";
  return label;
}

function frameSlider(steps) {
  return slider("Step", { most: steps.length - 1, value: state.frame, say: (at) => String(steps[at]), playing: true,
    change: (at) => { state.frame = at; return updateRidges(); } });
}

/** The slider over steps, when the layer or the recordings are other ones: at the last step. */
function renewFrames() {
  state.frame = Math.max(0, frames().length - 1);
  controls("layer");
}

function chooseLayer(layer, scroll = true) {
  state.layer = layer;
  document.getElementById("layer-list").value = String(layer);
  document.querySelector("#layer h2").textContent = `Inside one layer: ${page.layers[layer]}`;
  renewFrames();
  update("layer");
  if (scroll) document.getElementById("layer").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

/** One recording of every arm, at the shown learning rate if it was watched there; four at most: more are a click away. */
function firstRecordings() {
  const wanted = new Map();
  page.recordings.forEach(({ run }, k) => {
    const arm = run === null ? `recording ${k}` : page.runs[run].arm;
    const better = run !== null && page.runs[run].rate === state.rate && page.runs[page.recordings[wanted.get(arm)]?.run]?.rate !== state.rate;
    if (!wanted.has(arm) || better) wanted.set(arm, k);
  });
  return [...wanted.values()].slice(0, 4);
}

function recordingChoices() {
  const set = element("fieldset", { class: page.recordings.length > 6 ? "many" : "" }, element("legend", { text: "Recordings" }));
  page.recordings.forEach(({ name }, k) => {
    set.append(choice(name, state.recordings.has(k), (on) => { state.recordings[on ? "add" : "delete"](k); state.recordingsChosen = true; renewFrames(); update("layers", "layer"); }));
  });
  return page.recordings.length > 1 ? set : "";
}

// -- regions: what is on the page, from top to bottom; each is made again when what it shows has changed

const FOCUSABLE = "a, button, input, select, summary, [tabindex]";
const nameOf = (control) => `${control.tagName} ${control.getAttribute("aria-label") ?? control.closest("label")?.textContent ?? control.textContent}`;

const shownIn = new WeakMap();

/** Fill a region with what `make` makes, unless it shows the same already. The focus stays on the control of that name. */
function renew(region, shows, make) {
  const text = JSON.stringify(shows);
  if (shownIn.get(region) === text) return;
  shownIn.set(region, text);
  const focused = region.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  region.replaceChildren(...make());
  if (focused) [...region.querySelectorAll(FOCUSABLE)].find((control) => nameOf(control) === focused)?.focus({ preventScroll: true });
}

function madeBy() {
  const rows = page.made_by.map(([what, value]) => element("tr", {}, element("th", { text: what, scope: "row" }), element("td", { text: value, class: "long" })));
  return element("section", { id: "made-by", "aria-labelledby": "made-by-title" },
    element("h2", { id: "made-by-title", text: "How this was made" }),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of how this was made" }, element("table", {}, element("tbody", {}, ...rows))));
}

function contents() {
  const parts = [...(page.findings.length ? [{ name: "findings", title: "Findings" }] : []), ...(page.verdicts.length ? [{ name: "claims", title: "Claims" }] : []), ...page.sections.filter(({ name }) => chartsOf(name).length), { name: "made-by", title: "How this was made" }];
  return parts.map(({ name, title }) => element("a", { href: `#${name}`, text: title, onclick: (event) => goTo(event, name) }));
}

/** In a notebook's frame a link to a part of the page would lead to the notebook. */
function goTo(event, name) {
  if (location.protocol !== "about:") return;
  event.preventDefault();
  document.getElementById(name).scrollIntoView();
  document.getElementById(name).focus();
}

const frame = (name) => element("div", { "data-region": name });
const regions = { headline: frame("headline"), findings: frame("findings"), claims: frame("claims"), runs: frame("runs") };
const sections = new Map(page.sections.map(({ name }) => [name, null]));

function controls(name) {
  const made = sections.get(name);
  if (!made || !(name in LOCAL_CONTROLS)) return;
  const [depends, make] = LOCAL_CONTROLS[name];
  const shown = depends();
  renew(made.controls, shown, () => make(shown));
}

function section({ name, title, note }) {
  const wide = ["activations", "layers", "layer", "rates"].includes(name);
  const own = { grid: element("div", { class: wide ? "grid whole" : "grid" }) };
  own.controls = element("div", { class: "toolbar local", role: "group", "aria-label": `${title}: controls`, hidden: !(name in LOCAL_CONTROLS) });
  own.heading = element("h2", { id: `${name}-title`, text: title });
  own.box = element("section", { id: name, "aria-labelledby": `${name}-title` }, own.heading, element("p", { class: "note", text: note }), own.controls, own.grid);
  return own;
}

/** Bring every region up to date with `page`; charts draw themselves. */
function compose() {
  renew(regions.headline, [page.problems, page.summary, page.summary_note, page.runs, page.arms, page.recordings.length], () => [headline()]);
  renew(regions.findings, page.findings, () => page.findings.map(findings));
  renew(regions.claims, page.verdicts, () => (page.verdicts.length ? [claims()] : []));
  renew(regions.runs, [page.runs.map(({ rate, seed }) => [rate, seed]), page.arms], () => (page.runs.length ? [runControls()] : []));
  for (const described of page.sections) {
    const own = chartsOf(described.name);
    if (!sections.get(described.name)) {
      if (!own.length) continue;
      sections.set(described.name, section(described));
    }
    const { box, grid, heading } = sections.get(described.name);
    box.hidden = !own.length;
    if (described.name === "layer") heading.textContent = `${described.title}: ${page.layers[state.layer]}`;
    own.forEach(({ figure }, k) => grid.children[k] !== figure && grid.insertBefore(figure, grid.children[k] ?? null));
    controls(described.name);
  }
  renew(made, page.made_by, () => [madeBy()]);
  const boxes = page.sections.map(({ name }) => sections.get(name)?.box).filter(Boolean);
  [...Object.values(regions), ...boxes, made].forEach((region, k) => main.children[k] !== region && main.insertBefore(region, main.children[k] ?? null));
  renew(document.getElementById("contents"), page.sections.filter(({ name }) => chartsOf(name).length).concat(page.verdicts.length, page.findings.length), contents);
}

const made = frame("made");

const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find(({ figure }) => figure === entry.target);
    if (!chart) continue;
    chart.visible = entry.isIntersecting || chart.view.shape === "heatmap";
    if (chart.visible && chart.dirty) chart.update();
  }
}, { rootMargin: "200px" });

/** Draw what comes into sight at once. */
function drawInSight() {
  for (const { figure } of charts) inSight.observe(figure);
}

let pause;

/** Draw what is out of sight one by one, while nothing else is to do: a print needs all of it. */
function drawRestSoon(milliseconds = 800) {
  clearTimeout(pause);
  const idle = (task) => (window.requestIdleCallback ? requestIdleCallback(task, { timeout: 500 }) : setTimeout(task, 50));
  const rest = async () => {
    const next = charts.find((chart) => chart.dirty && !chart.visible);
    if (next) {
      await (next.drawing = next.drawing.then(() => next.dirty && next.draw()));
      idle(rest);
    } else document.body.dataset.drawn = "all";
  };
  pause = setTimeout(() => idle(rest), milliseconds);
}

const MOST_ARMS = 6; // with more, a study's unusual settings are hidden at first

/** Where the reader begins, as far as the records have it. */
function begin() {
  if (!state.armsChosen && page.arms.length > MOST_ARMS) page.arms.forEach(({ usual }, arm) => state.hiddenArms[usual ? "delete" : "add"](arm));
  if (!state.recordingsChosen) state.recordings = new Set(firstRecordings());
  const rates = new Set(page.runs.map(({ rate }) => rate));
  if (!state.rateChosen && !rates.has(state.rate)) state.rate = page.first_rate;
  if (!overviews().some(([name]) => name === state.overview)) state.overview = overviews()[0]?.[0] ?? null;
  state.layer = Math.min(state.layer, Math.max(0, page.layers.length - 1));
}

document.querySelector(".skip").addEventListener("click", (event) => goTo(event, "main"));
document.querySelector("noscript")?.remove();
begin();
state.epoch = Math.max(0, capturedEpochs().length - 1);
state.frame = Math.max(0, frames().length - 1);
compose();
main.append(element("footer", { text: `Drawn with Vega by normscope. ${page.live ? "Served from where the study is." : "This file needs no network."}` }));
drawInSight();
drawRestSoon(300);

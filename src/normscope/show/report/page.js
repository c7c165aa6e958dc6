// The page: its sections from top to bottom, made again where what they show has changed.

const main = document.getElementById("main");
const charts = page.views.map((view) => new Chart(view));
const byName = (list, name) => list.find((item) => item.name === name);
const chartsOf = (section) => charts.filter((chart) => chart.view.section === section);

function update(...sections) {
  return Promise.all(charts.filter((chart) => !sections.length || sections.includes(chart.view.section)).map((chart) => chart.update()));
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
    element("details", {}, element("summary", { text: `Command, hardware, versions and settings (${rows.length})` }),
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of how this was made" }, element("table", {}, element("tbody", {}, ...rows)))));
}

/** A print has room for what is folded. */
for (const [event, open] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => { for (const folded of document.querySelectorAll("#made-by details, #claims details")) folded.open = open; });
}

function contents() {
  const parts = [
    ...(page.findings.length ? [{ name: "findings", title: "Findings" }] : []),
    ...page.sections.filter(({ name }) => name === "main" && chartsOf(name).length),
    ...(page.summary.length ? [{ name: "numbers", title: "In numbers" }] : []),
    ...(page.verdicts.length ? [{ name: "claims", title: "Claims" }] : []),
    ...page.sections.filter(({ name }) => name !== "main" && chartsOf(name).length),
    { name: "made-by", title: "How this was made" },
  ];
  return parts.map(({ name, title }) => element("a", { href: `#${name}`, text: title, onclick: (event) => goTo(event, name) }));
}

/** In a notebook's frame a link to a part of the page would lead to the notebook. */
function goTo(event, name) {
  if (!inFrame) return;
  event.preventDefault();
  document.getElementById(name).scrollIntoView();
  document.getElementById(name).focus();
}

const frame = (name) => element("div", { "data-region": name });
const regions = { headline: frame("headline"), numbers: frame("numbers"), findings: frame("findings"), claims: frame("claims"), runs: frame("runs") };
const sections = new Map(page.sections.map(({ name }) => [name, null]));

function controls(name) {
  const made = sections.get(name);
  if (!made || !(name in LOCAL_CONTROLS)) return;
  const [depends, make] = LOCAL_CONTROLS[name];
  const shown = depends();
  renew(made.controls, shown, () => make(shown));
}

function section({ name, title, note }) {
  const wide = ["activations", "layers"].includes(name);
  const own = { grid: element("div", { class: wide ? "grid whole" : "grid" }) };
  own.controls = element("div", { class: "toolbar local", role: "group", "aria-label": `${title}: controls`, hidden: !(name in LOCAL_CONTROLS) });
  own.heading = element("h2", { id: `${name}-title`, text: title });
  own.box = element("section", { id: name, "aria-labelledby": `${name}-title` }, own.heading, element("p", { class: "note", text: note }), own.controls, own.grid);
  return own;
}

/** Bring every region up to date with `page`; charts draw themselves. */
function compose() {
  renew(regions.headline, [page.conclusion, page.remarks, page.problems, page.summary.length, page.recordings.length], () => [headline()]);
  renew(regions.numbers, [page.summary, page.summary_note, page.runs, page.arms], () => (page.summary.length ? [summary()] : []));
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
  const boxes = page.sections.filter(({ name }) => !BESIDE.includes(name)).map(({ name }) => sections.get(name)?.box).filter(Boolean);
  const pair = BESIDE.map((name) => sections.get(name)?.box).filter(Boolean);
  pair.forEach((box, k) => beside.children[k] !== box && beside.append(box));
  if (pair.length) boxes.push(beside);
  const first = sections.get("main")?.box;
  const { headline: found, findings: faults, runs, numbers, claims: tested } = regions;
  [found, faults, runs, ...(first ? [first] : []), numbers, tested, ...boxes.filter((box) => box !== first), made].forEach((region, k) => main.children[k] !== region && main.insertBefore(region, main.children[k] ?? null));
  renew(document.getElementById("contents"), page.sections.filter(({ name }) => chartsOf(name).length).concat(page.verdicts.length, page.findings.length, page.summary.length), contents);
}

const made = frame("made");
const BESIDE = ["layers", "layer"]; // the last sections: the overview, and the layer that is chosen in it
const beside = element("div", { class: "beside" });

const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find(({ figure }) => figure === entry.target);
    if (!chart) continue;
    chart.visible = entry.isIntersecting || chart.view.shape === "heatmap";
    if (chart.visible && chart.dirty) chart.drawNext();
  }
}, { rootMargin: "200px" });

/** Draw what comes into sight at once. */
function drawInSight() {
  for (const { figure } of charts) inSight.observe(figure);
}

let pause;

/** Draw what is out of sight one by one, while nothing else is to do: a print needs all of it. `data-drawn` of
 * the body says "all" while every chart shows what it should. */
function drawRestSoon(milliseconds = 800) {
  clearTimeout(pause);
  const idle = (task) => (window.requestIdleCallback ? requestIdleCallback(task, { timeout: 500 }) : setTimeout(task, 50));
  const rest = async () => {
    const next = charts.find((chart) => chart.dirty);
    if (next) {
      await next.drawNext();
      return idle(rest);
    }
    const drawings = charts.map(({ drawing }) => drawing);
    await Promise.all(drawings);
    if (charts.every(({ dirty, drawing }, k) => !dirty && drawing === drawings[k])) document.body.dataset.drawn = "all";
    return undefined;
  };
  pause = setTimeout(() => idle(rest), milliseconds);
}

/** Everything is drawn, at the width of the paper, before it is printed; the toolbar's legend is printed as a line. */
function beforePrint() {
  document.documentElement.classList.add("printing");
  regions.runs.append(element("p", { class: "key" },
    ...page.arms.flatMap((arm, k) => (state.hiddenArms.has(k) ? [] : [element("span", {}, swatch(arm), ` ${arm.label}`)]))));
  for (const chart of charts) chart.drawing = chart.drawing.then(() => chart.draw()); // promises alone: done before the browser goes on
}

function afterPrint() {
  document.documentElement.classList.remove("printing");
  regions.runs.querySelector(".key")?.remove();
}

addEventListener("beforeprint", beforePrint);
addEventListener("afterprint", afterPrint);

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
state.layer = page.first_layer;
begin();
state.epoch = Math.max(0, capturedEpochs().length - 1);
state.frame = Math.max(0, frames().length - 1);
const linked = readAddress();
compose();
main.append(element("footer", { text: `Drawn with Vega by normscope. ${page.live ? "Served from where the study is." : "This page works offline."}` }));
drawInSight();
drawRestSoon(300);
if (linked) showLayer(true);
addEventListener("hashchange", () => {
  if (!readAddress()) return;
  shownIn.delete(sections.get("layer").controls); // the slider is at another moment
  compose();
  update("layers", "layer");
  showLayer(true);
});

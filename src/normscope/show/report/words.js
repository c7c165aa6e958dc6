// The words and tables: summary, findings, claims.

function swatch({ colour, dash }) {
  const line = svgElement("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash });
  return svgElement("svg", { class: "swatch", "aria-hidden": "true" }, line);
}

/** Many values as dots on a line from the least to the greatest of their table; none for few, which are listed. */
function dots(values, colour, [low, high]) {
  if (!values.length) return [];
  const [width, height] = [220, 18];
  const marks = values.map((value) => svgElement("circle", { cx: 4 + ((value - low) / (high - low)) * (width - 8), cy: height / 2, r: 3, fill: colour, "fill-opacity": 0.35 }));
  return [svgElement("svg", { class: "dots", width, height, "aria-hidden": "true" }, svgElement("line", { class: "zero", x1: 0, x2: width, y1: height / 2, y2: height / 2 }), ...marks)];
}

function summaryTable() {
  const header = ["learning rate", "normalization", "final test accuracy", "runs", "every seed", "epochs to threshold", "gradient noise (std\u00a0/\u00a0mean)", "diverged"];
  const numeric = new Set([0, 3, 5, 6, 7]);
  const head = header.map((text, k) => element("th", { text, scope: "col", class: numeric.has(k) ? "number" : "" }));
  const percents = extent(page.summary.flatMap((row) => row.numbers));
  const rows = page.summary.map((row, k) => {
    const arm = page.arms[row.arm];
    const seeds = element("div", { class: "seeds" }, ...dots(row.numbers, arm.colour, percents), ...row.seeds.map((text) => element("span", { text })));
    const cells = [number(row.rate), arm.label, row.accuracy, String(row.n), seeds, row.threshold, row.variation, String(row.diverged)];
    const made = cells.map((cell, at) =>
      cell instanceof Node ? element("td", { "data-label": header[at] }, cell) : element("td", { text: cell, "data-label": header[at], class: numeric.has(at) ? "number" : at === 1 ? "name" : "short" }));
    made[1].prepend(swatch(arm), " ");
    return element("tr", { class: page.summary[k + 1]?.rate !== row.rate ? "group" : "" }, ...made);
  });
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Summary" },
    element("table", { id: "summary", class: "cards" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
}

/** What was found on each network and data set, and how many claims came out how. */
function conclusion() {
  const { headlines, counts } = page.conclusion;
  const made = headlines.map(({ subject, sentences: [first, ...rest], settle, family }) => element("div", { class: "finding" },
    ...(headlines.length > 1 ? [element("h2", { text: subject })] : []),
    element("p", { class: "lead" }, ...inParts(first ?? "")),
    ...(rest.length ? [element("p", { text: rest.join(" ") })] : []),
    ...(settle ? [element("p", { class: "settle", text: settle })] : []),
    ...(family ? [element("p", { class: "note", text: family })] : [])));
  const pills = Object.entries(counts).map(([outcome, text]) => element("li", { class: `pill ${outcome.replace(" ", "-")}`, text }));
  if (pills.length) made.push(element("ul", { class: "counts", "aria-label": "Claims by verdict" }, element("li", { text: "Claims:" }), ...pills));
  const note = headlines.find((one) => one.note)?.note;
  if (note) made.push(element("p", { class: "note", text: note }));
  return made;
}

/** A sentence, what stands in parentheses lighter: how sure it is, beside what was found. */
function inParts(text) {
  return text.split(/(\([^()]*\))/).map((part, k) => element("span", { class: k % 2 ? "sure" : "", text: part }));
}

/** What stands out in a recording, the gravest first, and on how much that rests. */
function remarksOn({ name, seen, sentences, note }) {
  const [first, ...rest] = sentences;
  return element("div", { class: "finding" },
    ...(page.recordings.length > 1 ? [element("h2", { text: name })] : []),
    element("p", { class: "lead" }, ...inParts(first ?? "Nothing stands out.")),
    ...(rest.length ? [element("ul", {}, ...rest.map((text) => element("li", { text })))] : []),
    element("p", { class: "note", text: `Looked at: ${seen}.${note ? ` ${note}` : ""}` }));
}

function headline() {
  const made = [...conclusion(), ...page.remarks.map(remarksOn), ...page.problems.map((text) => element("p", { class: "problem", text: `Not shown: ${text}` }))];
  if (!page.summary.length && !page.recordings.length && !page.findings.length) made.push(element("p", { text: "There is no run to show so far." }));
  return element("section", { id: "headline", "aria-label": "Result" }, ...made);
}

/** Every arm at every learning rate, in numbers. */
function summary() {
  const keys = ["label", "status", "epochs", "test_accuracy", "train_loss", "seconds", "error", "id"];
  const rows = () => [keys, ...page.runs.map((run) => keys.map((key) => String(run[key] ?? "")))];
  return element("section", { id: "numbers", "aria-labelledby": "numbers-title" },
    element("h2", { id: "numbers-title", text: "In numbers" }), summaryTable(), element("p", { class: "note", text: page.summary_note }),
    element("button", { type: "button", text: "Save all runs as CSV", onclick: () => saveCsv("runs", rows()) }));
}

const MARKS = { supported: "✓", contradicted: "✗", negligible: "≈", "no difference": "=", "cannot tell": "?" };

/** The colour of the arm that a text begins with. */
const colourOfArm = (text) => page.arms.find(({ label }) => text.startsWith(`${label}: `))?.colour ?? "var(--muted)";

/** The claims, verdict first: what was measured, its effect with an interval, every seed's value. */
function claims() {
  const header = ["verdict", "claim", "effect [95%]", "n", "every seed"];
  const subjects = new Set(page.verdicts.map((row) => row.subject));
  const quiet = (text) => element("div", { class: "quantity", text });
  const rowOf = (row) => {
    const words = [row.claim, ...(subjects.size > 1 ? [row.subject] : [])];
    const reach = extent(row.numbers.flat());
    const cells = [
      [element("div", { class: `pill ${row.verdict.replace(" ", "-")}`, text: `${MARKS[row.verdict]} ${row.verdict}${row.mark}` }),
        ...(row.qualifiers ? [quiet(row.qualifiers)] : []), ...(row.needs ? [quiet(`To settle it: ${row.needs}`)] : [])],
      [element("div", {}, element("strong", { text: words.join(" · ") }), ` ${row.statement}`), quiet(`Measured: ${row.quantity}`), ...row.settings.map(quiet)],
      [row.effect, ...(row.better ? [quiet(`P(better) ${row.better}`)] : [])],
      [String(row.n)],
      row.values.flatMap((text, k) => [...dots(row.numbers[k], colourOfArm(text), reach), element("div", { text })]),
    ];
    const kinds = ["verdict", "claim", "effect", "number", "values"];
    return element("tr", {}, ...cells.map((content, k) => element("td", { class: kinds[k], "data-label": header[k] }, ...content)));
  };
  const table = (rows, name) => element("div", { class: rows.length > 6 ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": name },
    element("table", { class: "cards" }, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col", class: text === "n" ? "number" : "" })))), element("tbody", {}, ...rows.map(rowOf))));
  const open = page.verdicts.filter(({ verdict }) => verdict === "cannot tell");
  const decided = page.verdicts.filter((row) => !open.includes(row));
  return element("section", { id: "claims", "aria-labelledby": "claims-title" },
    element("h2", { id: "claims-title", text: "Claims, tested on these runs" }),
    element("p", { class: "note", text: "What is measured and how it is tested was fixed before the runs. Intervals hold at all numbers of seeds together, so that seeds may be added until a claim is decided." }),
    ...(decided.length ? [table(decided, "Claims")] : []),
    ...(open.length ? [element("details", { open: !decided.length }, element("summary", { text: `${plural(open.length, "claim")} on which these runs cannot tell, and what would settle them` }), table(open, "Open claims"))] : []));
}

const SEVERITIES = { error: "✗ error", warning: "! warning", info: "i info" };

/** What each layer of a checked model was taken for, and why. */
function recognizedLayers(layers) {
  const rows = layers.map(({ layer, type, kind, why, what }) => element("tr", {}, ...[layer, type, kind, why, what].map((text, i) => element("td", { text, class: i ? "" : "name" }))));
  const header = ["layer", "class", "kind", "why", "what it does"];
  return element("details", { class: "recognized" }, element("summary", { text: "What each layer was taken for" }),
    element("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Layers" },
      element("table", {}, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col" })))), element("tbody", {}, ...rows))));
}

/** The findings of a model's check: a row for each cause, with its evidence and what to do. */
function findings(check, k) {
  const header = ["severity", "rule", "finding", "layers", "evidence", "remedy"];
  const rows = check.causes.map(({ severity, rule, message, layers, evidence, remedy }) => {
    const cells = [SEVERITIES[severity], rule, message, layerNames(layers), evidence, remedy];
    const kinds = [`short ${severity}`, "name", "claim", "", "evidence", "claim"];
    return element("tr", {}, ...cells.map((content, k) => element("td", { class: kinds[k], "data-label": header[k] }, content)));
  });
  const table = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Findings of ${check.model || "the model"}` },
    element("table", { class: "cards" }, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col" })))), element("tbody", {}, ...rows)));
  const undecided = check.undecided.length
    ? [element("details", {}, element("summary", { text: "Not enough data to tell" }), element("p", { text: "What is missing, and the rules that need it:" }), element("ul", {}, ...check.undecided.map((text) => element("li", { text }))))] : [];
  const recognized = check.recognized.length ? [recognizedLayers(check.recognized)] : [];
  return element("section", { id: k ? `findings-${k}` : "findings", "aria-labelledby": `findings-title-${k}` },
    element("h2", { id: `findings-title-${k}`, text: "Findings" }), element("p", { text: check.totals }), ...(rows.length ? [table] : []), ...recognized, ...undecided);
}

const SHOWN_LAYERS = 6;

function layerNames(layers) {
  if (layers.length <= SHOWN_LAYERS) return element("span", { text: layers.join(", ") });
  return element("details", {}, element("summary", { text: `${layers.length} layers` }), element("span", { text: layers.join(", ") }));
}

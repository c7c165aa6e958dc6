// The words and tables: summary, findings, claims.

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
  const header = ["learning rate", "normalization", "final test accuracy", "runs", "every seed", "epochs to threshold", "gradient noise (std\u00a0/\u00a0mean)", "diverged"];
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

/** What was found on each network and data set, and how many claims came out how. */
function conclusion() {
  const { headlines, counts } = page.conclusion;
  const made = headlines.map(({ subject, sentences: [first, ...rest], settle, family }) => element("div", { class: "finding" },
    ...(headlines.length > 1 ? [element("h2", { text: subject })] : []),
    element("p", { class: "lead" }, ...inParts(first ?? "")),
    ...(rest.length ? [element("p", { text: rest.join(" ") })] : []),
    ...(family ? [element("p", { class: "note", text: family })] : []),
    ...(settle ? [element("p", { class: "settle", text: settle })] : [])));
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

function headline() {
  const made = [...conclusion(), ...page.problems.map((text) => element("p", { class: "problem", text: `Not shown: ${text}` }))];
  if (!page.summary.length && !page.recordings.length && !page.findings.length) made.push(element("p", { text: "There is no run to show so far." }));
  if (page.summary.length) {
    const keys = ["label", "status", "epochs", "test_accuracy", "train_loss", "seconds", "error", "id"];
    const rows = () => [keys, ...page.runs.map((run) => keys.map((key) => String(run[key] ?? "")))];
    made.push(summaryTable(), element("p", { class: "note", text: page.summary_note }),
      element("button", { type: "button", text: "Save all runs as CSV", onclick: () => saveCsv("runs", rows()) }));
  }
  return element("section", { id: "headline", "aria-label": "Result" }, ...made);
}

const MARKS = { supported: "✓", contradicted: "✗", negligible: "≈", "no difference": "=", "cannot tell": "?" };

/** The claims, verdict first: what was measured, its effect with an interval, every seed's value. */
function claims() {
  const header = ["verdict", "claim", "effect [95%]", "n", "every seed"];
  const subjects = new Set(page.verdicts.map((row) => row.subject));
  const rows = page.verdicts.map((row) => {
    const words = [row.claim, ...(subjects.size > 1 ? [row.subject] : [])];
    const claim = element("td", { class: "claim" }, element("div", {}, element("strong", { text: words.join(" · ") }), ` ${row.statement}`),
      element("div", { class: "quantity", text: `Measured: ${row.quantity}` }),
      ...row.settings.map((text) => element("div", { class: "quantity", text })));
    const verdict = element("td", { class: "verdict" }, element("div", { class: `pill ${row.verdict.replace(" ", "-")}`, text: `${MARKS[row.verdict]} ${row.verdict}${row.mark}` }),
      ...(row.qualifiers ? [element("div", { class: "quantity", text: row.qualifiers })] : []),
      ...(row.needs ? [element("div", { class: "quantity", text: `To settle it: ${row.needs}` })] : []));
    const seeds = element("td", { class: "values" }, ...row.values.map((text) => element("div", { text })));
    return element("tr", {}, verdict, claim, element("td", { class: "effect" }, row.effect, ...(row.better ? [element("div", { class: "quantity", text: `P(better) ${row.better}` })] : [])), element("td", { class: "number", text: String(row.n) }), seeds);
  });
  return element("section", { id: "claims", "aria-labelledby": "claims-title" },
    element("h2", { id: "claims-title", text: "Claims, tested on these runs" }),
    element("p", { class: "note", text: "What is measured and how it is tested was fixed before the runs. Intervals hold at all numbers of seeds together, so that seeds may be added until a claim is decided. Where these runs cannot tell, the row says what would settle it." }),
    element("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Claims" },
      element("table", {}, element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { text, scope: "col", class: text === "n" ? "number" : "" })))), element("tbody", {}, ...rows))));
}

const SEVERITIES = { error: "✗ error", warning: "! warning", info: "i info" };

/** The findings of a model's check: a row for each cause, with its evidence and what to do. */
function findings(check, k) {
  const header = ["severity", "rule", "finding", "layers", "evidence", "remedy"];
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

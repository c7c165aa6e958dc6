/* One token through a layer that takes every token by itself: changed by sliders, computed here. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const meanOf = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The Gauss error function: Abramowitz and Stegun 7.1.26, right to 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]
    .reduce((sum, factor) => (sum + factor) * t, 0);
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

/** What the layer gives for one token. */
function output(token) {
  const bent = { tanh: Math.tanh, erf }[DATA.kind];
  const mean = DATA.kind === "layer" ? meanOf(token) : 0;
  const root = Math.sqrt(meanOf(token.map((value) => (value - mean) ** 2)) + DATA.eps);
  const inner = token.map((value) => (bent ? bent(DATA.alpha * value + DATA.shift) : (value - mean) / root));
  return inner.map((value, index) => value * (DATA.gain?.[index] ?? 1) + (DATA.bias?.[index] ?? 0));
}

/** Bars of a token's values, pale ones behind them, all on one scale. */
function bars(id, values, pale, sentence) {
  const [width, height, middle] = [560, 230, 110];
  const svg = byId(id);
  blank(svg, width, height, sentence);
  const end = Math.max(1e-9, ...values.map(Math.abs), ...pale.map(Math.abs));
  const step = (width - 60) / values.length;
  [[pale, "input", 0.9], [values, "rect-now", 0.5]].forEach(([of, kind, share]) => of.forEach((value, index) => {
    const size = (Math.abs(value) / end) * 95;
    draw(svg, "rect", {
      x: 55 + index * step + (step * (1 - share)) / 2, width: step * share, height: size,
      y: value > 0 ? middle - size : middle, class: kind,
    });
  }));
  draw(svg, "line", { x1: 50, x2: width - 5, y1: middle, y2: middle, class: "axis" });
  [[15, end], [middle, 0], [205, -end]].forEach(([y, value]) => draw(svg, "text", {
    x: 46, y: y + 4, "text-anchor": "end",
  }, value ? value.toPrecision(2) : "0"));
}

function show() {
  const factor = 10 ** (Number(byId("scale").value) / 3);
  const move = Number(byId("move").value);
  byId("scale-text").textContent = factor.toPrecision(3);
  byId("move-text").textContent = short(move, 1);
  const before = DATA.tokens[Number(byId("token").value)];
  const token = before.map((value) => factor * value + move);
  const [old, now] = [output(before), output(token)];
  const moved = Math.max(...now.map((value, index) => Math.abs(value - old[index])));
  const size = Math.max(1e-9, ...old.map(Math.abs));
  const same = moved < 0.01 * size;
  const sentence = factor === 1 && move === 0
    ? "This is the token as the trained network has it."
    : `The output moves by up to ${moved.toPrecision(2)}, ${percent(moved / size)} of its largest value: ${
      same ? "the layer has undone the change." : "the change goes through."}`;
  byId("say").textContent = sentence;
  byId("say").classList.toggle("bad", !same && (factor !== 1 || move !== 0));
  bars("input", token, before, `The token's ${token.length} values`);
  bars("output-plot", now, old, `The layer's ${now.length} outputs. ${sentence}`);
}

/** Fills a list of definitions; of each row the first is the term. */
function define(id, rows) {
  byId(id).replaceChildren(...rows.flatMap(([term, ...words]) => [["dt", term], ...words.map((each) => ["dd", each])]
    .map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text }))));
}

byId("layer").textContent = DATA.layer;
byId("pooled").textContent = DATA.pooled;
byId("modes").textContent = DATA.modes;
define("steps", DATA.steps);
define("changes", DATA.changes);
define("made", DATA.made);
byId("lost").replaceChildren(...DATA.lost.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
byId("token").replaceChildren(...DATA.names.map((name, index) => new Option(name, index)));
byId("token").value = DATA.chosen;
["token", "scale", "move"].forEach((id) => { byId(id).oninput = show; });
byId("reset").onclick = () => { byId("scale").value = 0; byId("move").value = 0; show(); };
show();
document.body.dataset.ready = "yes";

// The rows of what is shown of recordings: the overviews, and the channels of the chosen layer.

const SIDES = ["input", "output"];
const INPUT_COLOUR = "var(--input)"; // grey: a hue stands for a normalization
const factsOf = (recording) => page.facts.find((one) => one.recording === recording && one.layer === state.layer);
const colourOf = (recording) => (page.recordings[recording].run === null ? `var(--c${recording % 7})` : armOf(page.recordings[recording].run).colour);
const dashOf = (recording) => [[1, 0], [5, 2], [2, 2]][shownRecordings().filter((other) => other < recording && colourOf(other) === colourOf(recording)).length % 3];
const shownRecordings = () => [...state.recordings].sort((a, b) => a - b);
/** A recording by its arm, where that tells it from the others that are shown. */
function shortName(recording) {
  const arm = (k) => page.recordings[k].run === null ? null : page.runs[page.recordings[k].run].arm;
  const others = shownRecordings().filter((other) => other !== recording);
  const alone = arm(recording) !== null && others.every((other) => arm(other) !== arm(recording));
  return alone ? page.arms[arm(recording)].label : page.recordings[recording].name;
}
const ofLayer = (columns, length) => range(length).filter((k) => columns.layer[k] === state.layer && state.recordings.has(columns.recording[k]));

Object.assign(SHAPES, {
  heatmap(view) {
    if (view.name !== state.overview) return [];
    const table = tableOf(view);
    const { columns, curve, points } = table;
    const mine = range(table.length).filter((k) => state.recordings.has(columns.recording[k]));
    const values = mine.flatMap((k) => [...curve.subarray(k * points, (k + 1) * points)]);
    if (view.if_zero && values.length && values.every((value) => value === 0)) return [{ key: "none", caption: view.if_zero, rows: [], bare: true }];
    const layers = [...new Set(mine.map((k) => columns.layer[k]))].sort((a, b) => a - b);
    const signals = { span: extent(values), layers, names: page.layers, chosen: state.layer };
    const panels = [...groupBy(mine, (k) => columns.recording[k])].sort(([a], [b]) => a - b);
    return panels.map(([recording, places]) => ({
      key: `recording ${recording}`, label: shortName(recording), rows: places.flatMap((k) => cells(table, k)), signals, height: 95 + 17 * layers.length,
    }));
  },

  /** With and without normalization in one panel: the hue tells them apart. */
  trajectories(view) {
    const table = tableOf(view);
    const log = state.log && view.may_be_log;
    const rows = [];
    const bands = new Map();
    for (const k of ofLayer(table.columns, table.length)) {
      const [recording, number, part] = ["recording", "channel", "part"].map((name) => table.columns[name][k]);
      const series = `${recording} ${number}`;
      const name = `channel ${number}${state.recordings.size > 1 ? `, ${shortName(recording)}` : ""}`;
      for (let at = 0; at < table.points; at++) {
        const y = table.curve[k * table.points + at];
        const x = place(table, k, at);
        if (part === 0 && !(log && !(y > 0))) rows.push({ x, y, series, name, channel: number, colour: colourOf(recording), shape: "circle", dash: dashOf(recording) });
        if (part === 1) bands.set(`${series} ${at}`, { x, y, series, name: `${name}, batches`, channel: number, colour: colourOf(recording), band: true });
        if (part === 2) bands.get(`${series} ${at}`).y2 = y;
      }
    }
    const band = [...bands.values()].filter(({ y, y2 }) => !log || (y > 0 && y2 > 0));
    return rows.length ? [{ key: "all", rows: dotted(rows).concat(band), signals: { lit: litChannel(), now: stepShown() }, log }] : [];
  },

  /** A panel for each recording and side, all of them on one axis. */
  ridges(view) {
    const table = tableOf(view);
    const { columns, length } = table;
    const panels = [];
    for (const [recording, own] of [...groupBy(ofLayer(columns, length), (k) => columns.recording[k])].sort(([a], [b]) => a - b)) {
      const steps = [...new Set(own.map((k) => columns.step[k]))];
      const step = nearestTo(steps, stepShown());
      const first = Math.min(...steps);
      for (const side of SIDES) {
        const mine = own.filter((k) => Number.isFinite(columns[`low_${side}`][k]));
        const at = (when) => mine.filter((k) => columns.step[k] === when).map((k) => ridge(table, k, side));
        if (mine.length) panels.push(ridgePanel(recording, side, step, at(step), first === step ? [] : at(first), mine.flatMap((k) => ends(columns, k, side))));
      }
    }
    const span = commonSpan(panels);
    return panels.map((panel) => ({ ...panel, span }));
  },
});

/** A channel's distribution: heights up to 1 at evenly spaced values, and the moments that follow from its ends. */
function ridge(table, k, side) {
  const { columns, curve, points } = table;
  const [low, high] = [columns[`low_${side}`][k], columns[`high_${side}`][k]];
  const all = range(points).map((at) => curve[k * points + at]);
  const held = range(points).filter((at) => [all[at - 1], all[at], all[at + 1]].some((height) => height > 0.004));
  return { channel: columns.channel[k], heights: held.map((at) => all[at]), xs: held.map((at) => place(table, k, at, `_${side}`)), mean: (low + high) / 2, std: Math.abs(high - low) / 8 };
}

/** Where three of the four standard deviations end that a distribution is recorded for. */
const ends = (columns, k, side) => {
  const [low, high] = [columns[`low_${side}`][k], columns[`high_${side}`][k]];
  return [low + (high - low) / 8, high - (high - low) / 8];
};

function ridgePanel(recording, side, step, ridges, first, reach) {
  const facts = factsOf(recording);
  const what = facts.normalizes ? side : "not normalized";
  const label = state.recordings.size > 1 ? `${shortName(recording)}: ${what}` : what[0].toUpperCase() + what.slice(1);
  const rows = ridges.flatMap(({ channel, xs, heights }) => xs.map((x, k) => ({ x, y: heights[k], channel, name: `channel ${channel}, step ${step}` })));
  return {
    key: `${recording} ${side}`, recording, label, caption: side === "output" ? shareText(facts, step) : "", rows, ridges, first, reach, step,
    colour: side === "input" ? INPUT_COLOUR : colourOf(recording), region: side === "output" ? facts.region : [], normal: side === "output",
  };
}

/** The share of the outputs that the next activation lets gradients through, as the overview has it. */
function shareText(facts, step) {
  const share = facts.share[facts.steps.indexOf(step)];
  if (share === null || share === undefined) return "";
  const where = facts.activation ? `in ${facts.activation}'s active region (${facts.words})` : "above zero";
  return `${(100 * share).toFixed(1)}% ${where}`;
}

/** One axis for all of a layer's panels: from the most extreme channels but for one in fifty, and no less than N(0, 1) needs. */
function commonSpan(panels) {
  const reach = panels.flatMap((panel) => panel.reach).filter(Number.isFinite).sort((a, b) => a - b);
  if (!reach.length) return [-3, 3];
  const at = (share) => reach[Math.round(share * (reach.length - 1))];
  return [Math.min(-3, at(0.01)), Math.max(3, at(0.99))];
}

/** What the curves are of: the step, how much of the batch was sampled, how many of the recorded steps are on the slider. */
function ridgeNote([first, ...others]) {
  if (!first) return "";
  const facts = factsOf(first.recording);
  const at = facts.steps.indexOf(first.step);
  const [sampled, batch] = [facts.sampled[at], facts.batch[at]].map((count) => count?.toLocaleString("en"));
  const share = !batch || sampled === batch ? `all ${sampled}` : `${sampled} of ${batch}`;
  const drawn = first.ridges.length;
  const followed = [first, ...others].map(({ recording }) => factsOf(recording)).find(({ region }) => region.length);
  return [
    `${whenText(first)}.`,
    `Each curve: ${share} values of a channel in one training batch (whole samples), scaled to its peak.`,
    ...(drawn < facts.channels ? [`${drawn} of ${facts.channels} channels, evenly spread.`] : []),
    `The slider has ${facts.steps.length} of ${facts.recorded} recorded steps.`,
    "Outline: the first of them. Dashed: N(0, 1).",
    ...(followed ? [`Shaded: where ${followed.activation} passes gradients (${followed.words})${followed.added ? ", after an addition" : ""}.`] : []),
  ].join(" ");
}

const whenText = ({ recording, step }) => `Step ${step.toLocaleString("en")}${epochAt(recording, step)}`;
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

/** A layer's cells: each reaches from one recorded step to the next, the last one as far as the one before. */
function cells(table, row) {
  const layer = table.columns.layer[row];
  const at = range(table.points).map((k) => place(table, row, k));
  const last = at.length > 1 ? Math.max(1, at.at(-1) - at.at(-2)) : 1;
  return at
    .map((x, k) => ({ x, x2: at[k + 1] ?? x + last, y: table.curve[row * table.points + k], layer, name: page.layers[layer], first: k === 0 }))
    .filter((cell) => cell.x2 > cell.x || cell.first);
}

/** [least, greatest], pulled apart where they are one. */
function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low < high ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

/** The steps at which the chosen layer's distributions were recorded in the shown recordings. */
function framesOf(view) {
  const { columns, length } = tableOf(view);
  return [...new Set(ofLayer(columns, length).map((k) => columns.step[k]))].sort((a, b) => a - b);
}

const nearestTo = (values, wanted) =>
  values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best), values[0]);

/** The epoch that a step lies in, as marked by the loop; null where it marked none. */
function epochOf(recording, step) {
  const begun = page.recordings[recording].epochs.filter(([, before]) => before < step);
  return begun.length ? begun[begun.length - 1][0] : null;
}

function epochAt(recording, step) {
  const epoch = epochOf(recording, step);
  return epoch === null ? "" : `, epoch ${epoch}`;
}

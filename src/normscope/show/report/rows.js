// From a view's table and what the reader chose to the rows of each of its panels.

const page = JSON.parse(document.getElementById("payload").textContent);

const state = {
  rate: page.first_rate, // a learning rate, or null for all of them
  rateChosen: false, // by the reader
  hiddenArms: new Set(),
  armsChosen: false,
  hiddenSeeds: new Set(),
  selected: new Set(), // runs
  onlySelected: false,
  log: false,
  smoothing: 0,
  epoch: 0, // place in the captured epochs
  overview: null, // name of the view shown
  layer: 0,
  recordings: new Set(),
  recordingsChosen: false,
  frame: 0, // place in the layer's recorded distributions
  channel: null, // that is kept lit
  pointed: null, // channel that the pointer is at
};

function shown(run, anyRate, line) {
  const { arm: own, seed, rate } = page.runs[run];
  const arm = line ?? own; // where a line stands for several arms
  if (state.hiddenArms.has(arm) || state.hiddenSeeds.has(seed)) return false;
  if (state.onlySelected && state.selected.size && !state.selected.has(run)) return false;
  return anyRate || state.rate === null || rate === state.rate;
}

const armOf = (run) => page.arms[page.runs[run].arm];

/** Looks of a run's line: thin, and faint while others are selected. */
function looks(run) {
  const { colour, shape } = armOf(run);
  if (!state.selected.size) return { colour, shape, dash: "", width: 0.9, opacity: 0.5 };
  const chosen = state.selected.has(run);
  return { colour, shape, dash: "", width: chosen ? 2.2 : 0.8, opacity: chosen ? 1 : 0.15 };
}

/** Exponential moving average, corrected for its start; what is missing stays missing. */
function smooth(values) {
  if (!state.smoothing) return values;
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    sum = state.smoothing * sum + (1 - state.smoothing) * value;
    weight = state.smoothing * weight + (1 - state.smoothing);
    return sum / weight;
  });
}

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return groups;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function range(length) {
  return Array.from({ length }, (_, k) => k);
}

const MOST_SEEDS = 12; // lines of single seeds in a panel of distributions; the mean is over all of them

const MOST_LINES = 8; // of more runs of one arm and rate, a few are drawn and a band for the middle of them
const FEW_LINES = 5;

/** Rows of curves, of many like runs only a few: a band reaches from the tenth to the ninetieth of a hundred of them. */
function inBands(rows) {
  return [...groupBy(rows, ({ run }) => `${page.runs[run].arm} ${page.runs[run].rate}`).values()].flatMap((own) => {
    const runs = [...new Set(own.map(({ run }) => run))];
    if (runs.length <= MOST_LINES) return own;
    const { arm, rate } = page.runs[runs[0]];
    const { label, colour } = page.arms[arm];
    const band = [...groupBy(own.filter((row) => Number.isFinite(row.y)), ({ x }) => x)].map(([x, at]) => {
      const sorted = at.map(({ y }) => y).sort((a, b) => a - b);
      const part = (share) => sorted[Math.round(share * (sorted.length - 1))];
      return { x, y: part(0.1), y2: part(0.9), band: true, series: `band ${arm} ${rate}`, colour, name: `${label}, 10% to 90% of ${runs.length} runs` };
    });
    const few = new Set(runs.slice(0, FEW_LINES));
    return [...band, ...own.filter(({ run, end }) => few.has(run) || state.selected.has(run) || end)];
  });
}

const FEWEST_POINTS = 3; // a line through fewer is a stroke, or nothing: they are drawn as points as well

function dotted(rows) {
  for (const own of groupBy(rows.filter(({ band }) => !band), ({ series }) => series).values()) {
    if (own.length < FEWEST_POINTS) for (const row of own) row.dot = true;
  }
  return rows;
}

const MOST_LABELS = 6;
const LABEL_PIXELS = 13;

/** Means with the arm's name at the end of each line; names that would cover each other are moved apart. */
function labelled(rows, log) {
  const ends = [...groupBy(rows, ({ series }) => series).values()].map((own) => own.at(-1));
  if (ends.length > MOST_LABELS) return rows;
  const size = log ? Math.log : Number;
  const [low, high] = extent(rows.map(({ y }) => size(y)));
  let taken = -Infinity;
  for (const end of ends.sort((a, b) => a.y - b.y)) {
    const at = ((size(end.y) - low) / (high - low)) * 200;
    taken = Math.max(at, taken + LABEL_PIXELS);
    Object.assign(end, { label: state.rate === null ? `${end.arm}, ${number(end.rate)}` : end.arm, nudge: at - taken });
  }
  return rows;
}

const SHAPES = {
  curves(view) {
    const { columns, length } = tableOf(view);
    const log = state.log && view.may_be_log;
    const rows = [];
    const byRun = groupBy(range(length).filter((k) => shown(columns.run[k])), (k) => columns.run[k]);
    for (const [run, places] of byRun) {
      const values = smooth(places.map((k) => columns.y[k]));
      const style = looks(run);
      places.forEach((k, at) => {
        if (log && !(values[at] > 0)) return;
        rows.push({ run, x: columns.x[k], y: values[at], series: `run ${run}`, name: page.runs[run].label, ...style });
      });
      if (rows.length && page.runs[run].status === "diverged") rows.at(-1).end = true;
    }
    return [{ key: "all", rows: dotted(inBands(rows).concat(labelled(means(rows), log))), log }];
  },

  densities(view) {
    const table = tableOf(view);
    const { columns, length } = table;
    const rate = state.rate ?? page.first_rate;
    const epochs = [...new Set(columns.epoch)].sort((a, b) => a - b);
    const epoch = epochs[Math.min(state.epoch, epochs.length - 1)];
    const mine = range(length).filter((k) => shown(columns.run[k], true) && page.runs[columns.run[k]].rate === rate);
    const panels = [];
    for (const [arm, places] of groupBy(mine, (k) => page.runs[columns.run[k]].arm)) {
      const peak = Math.max(view.spec.layer.length > 2 ? 0.4 : 0, ...places.map((k) => peakOf(table, k)));
      const now = places.filter((k) => columns.epoch[k] === epoch);
      const { label, colour } = page.arms[arm];
      const rows = [];
      const drawn = now.filter((k, at) => at < MOST_SEEDS || state.selected.has(columns.run[k]));
      for (const k of drawn) {
        const run = columns.run[k];
        for (let at = 0; at < table.points; at++) {
          const y = table.curve[k * table.points + at];
          rows.push({ x: place(table, k, at), y, series: `run ${run}`, name: page.runs[run].label, ...looks(run) });
        }
      }
      for (let at = 0; now.length && at < table.points; at++) {
        const y = mean(now.map((k) => table.curve[k * table.points + at]));
        rows.push({ x: place(table, now[0], at), y, mean: true, series: "mean", name: `${label}, mean`, colour });
      }
      panels.push({
        key: `arm ${arm}`,
        label: `${label}, epoch ${epoch}`,
        caption: momentsOf(columns, now) + (drawn.length < now.length ? ` · ${drawn.length} seeds drawn` : ""),
        rows: rows.map((row) => (row.mean ? { width: 0, opacity: 0, ...row } : row)),
        signals: { top: 1.08 * peak || 1 },
        order: arm,
      });
    }
    return panels.sort((a, b) => a.order - b.order);
  },

  rates(view) {
    const { columns, length, levels } = tableOf(view);
    const at = columns.level && rateOf(columns, length); // of other settings than the learning rate, one rate is shown
    const places = range(length).filter((k) => shown(columns.run[k], true, columns.line?.[k]) && (!columns.level || page.runs[columns.run[k]].rate === at));
    const armAt = (k) => columns.line?.[k] ?? page.runs[columns.run[k]].arm;
    const arms = [...new Set(places.map(armAt))].sort((a, b) => a - b);
    const shift = (arm) => ARM_SHIFT * (arms.indexOf(arm) - (arms.length - 1) / 2);
    const rows = [];
    for (const k of places) {
      const run = columns.run[k];
      const { label: name, status, rate } = page.runs[run];
      const arm = armAt(k);
      const { colour, shape } = page.arms[arm];
      const row = { run, x: columns.level?.[k] ?? rate, y: columns.y[k], arm, name, shift: shift(arm), ...looks(run), colour, shape, opacity: looks(run).opacity + 0.2 };
      if (columns.level) row.level = levels[row.x];
      if (status === "diverged") rows.push({ ...row, kind: "diverged", name: `${name}: diverged` });
      else if (Number.isFinite(row.y)) rows.push({ ...row, kind: "seed" });
    }
    for (const own of groupBy(rows.filter((row) => row.kind === "seed"), (row) => `${row.arm} ${row.x}`).values()) {
      const { arm, x, level } = own[0];
      const { label, colour, dash } = page.arms[arm];
      rows.push({ x, level, y: mean(own.map((row) => row.y)), arm, shift: shift(arm), kind: "mean", series: arm, colour, dash: dashes(dash), name: `${label}, mean of ${own.length}` });
    }
    const label = columns.level ? `learning rate ${number(at)}` : undefined;
    const signals = { lane: rows.some(({ kind }) => kind === "diverged") ? 26 : 0, ...(columns.level ? { levels } : { rates: [...new Set(rows.map(({ x }) => x))].sort((a, b) => a - b) }) };
    return [{ key: "all", label, rows: rows.sort((a, b) => a.x - b.x || a.arm - b.arm), signals }];
  },
};

const ARM_SHIFT = 7; // pixels between arms at one value, so that their points do not hide each other

/** The learning rate at which a setting is shown: the reader's, or else one at which it has most values. */
function rateOf(columns, length) {
  if (state.rateChosen && state.rate !== null) return state.rate;
  const byRate = [...groupBy(range(length), (k) => page.runs[columns.run[k]].rate)].map(([rate, own]) => ({
    rate, levels: new Set(own.map((k) => columns.level[k])).size, first: rate === page.first_rate, runs: own.length,
  }));
  byRate.sort((a, b) => b.levels - a.levels || b.first - a.first || b.runs - a.runs || a.rate - b.rate);
  return byRate[0].rate;
}

function dashes(text) {
  return text ? text.split(" ").map(Number) : [1, 0];
}

function means(rows) {
  const finished = rows.filter((row) => page.runs[row.run].status === "finished" && Number.isFinite(row.y));
  const found = [];
  for (const own of groupBy(finished, (row) => `${page.runs[row.run].arm} ${page.runs[row.run].rate} ${row.x}`).values()) {
    const { arm, rate } = page.runs[own[0].run];
    const { label, colour, dash, shape } = page.arms[arm];
    const n = own.length;
    found.push({
      x: own[0].x, y: mean(own.map((row) => row.y)), arm: label, rate, series: `mean ${arm} ${rate}`, colour, shape, dash: dashes(dash), width: 2.4,
      opacity: state.selected.size ? 0.3 : 1, name: `${label}, learning rate ${number(rate)}, mean of ${n}`,
    });
  }
  return found;
}

function peakOf(table, row) {
  let peak = 0;
  for (let at = row * table.points; at < (row + 1) * table.points; at++) peak = Math.max(peak, table.curve[at]);
  return peak;
}

function momentsOf(columns, places) {
  if (!places.length) return "not captured";
  const of = (name) => mean(places.map((k) => columns[name][k]));
  const parts = [`mean ${of("mean").toFixed(2)}, std ${of("std").toFixed(2)}`];
  if (of("zeros") >= 0.0005) parts.push(`${(100 * of("zeros")).toFixed(1)}% exact zeros`);
  parts.push(`${(100 * of("beyond")).toFixed(1)}% beyond ±5`, `n = ${places.length}`);
  return parts.join(" · ");
}

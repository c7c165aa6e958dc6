/* The nine experiments of the page. Each section reads its controls, runs the network and says what
   came out. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const images = new Images(DATA.images);
const network = new Network(DATA.network);
const random = generator(DATA.seed);
const everyImage = Array.from({ length: images.count }, (_, id) => id);
const byId = (id) => document.getElementById(id);
const nameOf = (label) => DATA.classes[label];
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Writes a sentence; parts in arrays are set in bold. */
function say(id, parts, bad = false) {
  const element = byId(id);
  element.classList.toggle("bad", bad);
  element.replaceChildren(...parts.map((part) => {
    if (!Array.isArray(part)) return document.createTextNode(part);
    const bold = document.createElement("b");
    bold.textContent = part[0];
    return bold;
  }));
}

/** A slider over powers of two: its value, kept within the images that there are. */
function sizeOf(id) {
  const size = Math.min(2 ** Number(byId(id).value), images.count);
  byId(`${id}-text`).textContent = size;
  byId(id).setAttribute("aria-valuetext", plural(size, "image"));
  return size;
}

const drawBatch = (size, from = everyImage) => shuffled(from, random).slice(0, size);
const sorted = (ids) => [...ids].sort((a, b) => images.labels[a] - images.labels[b]);
const channelValues = (x, channel, of) => {
  const values = [];
  eachOf(x, channel, (index) => values.push(of[index]));
  return values;
};
const deviation = (values) => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
};

/* 1 Follow one image */

const follow = { hero: 0, batch: [] };

function followBatch() {
  const others = everyImage.filter((id) => id !== follow.hero);
  follow.batch = [follow.hero, ...drawBatch(sizeOf("follow-size") - 1, others)];
}

/** An image that is read right alone, in eval mode, and often otherwise beside another one. */
function pickHero() {
  return everyImage.slice(0, 80).find((id) => {
    const alone = likeliest(network.forward(images.batch([id])).probabilities[0]);
    if (alone !== images.labels[id]) return false;
    const others = everyImage.filter((other) => other !== id);
    const changed = Array.from({ length: 8 }, () => network.forward(
      images.batch([id, ...drawBatch(1, others)]), { training: true },
    ).probabilities[0]).filter((probabilities) => likeliest(probabilities) !== alone).length;
    return changed >= 2 && changed <= 6;
  }) ?? 0;
}

function showFollow() {
  const training = document.querySelector("input[name=mode]:checked").value === "train";
  const { probabilities } = network.forward(images.batch(follow.batch), { training });
  const alone = network.forward(images.batch([follow.hero])).probabilities[0];
  const mine = probabilities[0];
  const truth = images.labels[follow.hero];
  const answer = likeliest(mine);
  const company = plural(follow.batch.length - 1, "other image");
  const reading = [" is read as ", [nameOf(answer)], ` (${percent(mine[answer], 0)} sure)`];
  if (!training) {
    say("follow-say", ["In eval mode the ", [nameOf(truth)], ...reading,
      ", whatever company it has: the layers use what they remember."], answer !== truth);
  } else if (answer === likeliest(alone)) {
    say("follow-say", [`In train mode, beside ${company}, the `, [nameOf(truth)], ...reading,
      `. Alone in eval mode: ${percent(alone[answer], 0)}. Draw another batch: the image stays the same.`],
    answer !== truth);
  } else {
    say("follow-say", [`In train mode, beside ${company}, the same `, [nameOf(truth)], ...reading,
      ". Alone in eval mode it is read as ", [nameOf(likeliest(alone))],
      ". Nothing about the image or the weights changed."], true);
  }
  byId("follow-batch").replaceChildren(...follow.batch.map((id, index) => {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    paint(canvas, images, id);
    const read = likeliest(probabilities[index]);
    button.type = "button";
    button.classList.toggle("misread", read !== images.labels[id]);
    button.setAttribute("aria-current", index === 0);
    button.setAttribute("aria-label", `${nameOf(images.labels[id])}, read as ${nameOf(read)}: follow`);
    button.title = `${nameOf(images.labels[id])}, read as ${nameOf(read)}`;
    button.onclick = () => { follow.hero = id; followBatch(); showFollow(); };
    button.append(canvas);
    return button;
  }));
  bars(byId("follow-bars"), {
    labels: DATA.classes, values: mine, thin: alone, marked: truth,
    sentence: `Probabilities now: ${DATA.classes.map((name, index) => `${name} ${percent(mine[index], 0)}`).join(", ")}`,
  });
}

/* 2 What is pooled */

const SHOWN_IMAGES = 4;
const pooled = { image: 0, channel: 0 };
const pooledBatch = network.forward(images.batch(everyImage.slice(0, SHOWN_IMAGES)), { training: true }).first;

/** Whether two maps share their mean. */
function shares(kind, a, b) {
  const groups = pooledBatch.channels / 2;
  return {
    batch: a.channel === b.channel,
    layer: a.image === b.image,
    group: a.image === b.image && Math.floor(a.channel / groups) === Math.floor(b.channel / groups),
    instance: a.image === b.image && a.channel === b.channel,
  }[kind];
}

function showLayer() {
  const kind = document.querySelector("input[name=kind]:checked").value;
  const { channels, height, width, input } = pooledBatch;
  const area = height * width;
  let [sum, count, maps] = [0, 0, 0];
  [...byId("layer-maps").children].forEach((button, index) => {
    const here = { image: Math.floor(index / channels), channel: index % channels };
    const lit = shares(kind, here, pooled);
    button.classList.toggle("shares", lit);
    button.setAttribute("aria-pressed", here.image === pooled.image && here.channel === pooled.channel);
    if (lit) {
      maps += 1;
      for (let value = index * area; value < (index + 1) * area; value += 1) { sum += input[value]; count += 1; }
    }
  });
  const over = {
    batch: "over all images of the batch: the answer depends on the company",
    layer: "over all channels of its image: no other image is looked at",
    group: "over half of the channels of its image (2 groups): no other image is looked at",
    instance: "over itself alone",
  }[kind];
  say("layer-say", [`Image ${pooled.image + 1}, channel ${pooled.channel}: ${kind} normalization pools `,
    [`${plural(maps, "map")} of ${height} × ${width} values`], ` (${count} values, mean ${short(sum / count)}) ${over}.`]);
}

function buildMaps() {
  const { channels, height, width, input } = pooledBatch;
  const area = height * width;
  const largest = Math.max(...input.map(Math.abs));
  const grid = byId("layer-maps");
  grid.style.gridTemplateColumns = `repeat(${channels}, minmax(0, 1fr))`;
  for (let index = 0; index < SHOWN_IMAGES * channels; index += 1) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    paintMap(canvas, input.slice(index * area, (index + 1) * area), width, largest);
    button.type = "button";
    button.setAttribute("aria-label", `Image ${Math.floor(index / channels) + 1}, channel ${index % channels}`);
    button.onclick = () => {
      Object.assign(pooled, { image: Math.floor(index / channels), channel: index % channels });
      showLayer();
    };
    button.append(canvas);
    grid.append(button);
  }
}

/* 3 Batch size */

const channelOf = () => Number(byId("size-channel").value);
let sizeBatch = [];

function showSize() {
  const size = sizeOf("size-size");
  const channel = channelOf();
  const { first } = network.forward(images.batch(sizeBatch), { training: true });
  const norm = network.norms[0];
  const { mean, variance } = first.moments[channel];
  const input = channelValues(first, channel, first.input);
  const output = channelValues(first, channel, first.output);
  const reach = Math.max(3, Math.ceil(Math.max(...input.map(Math.abs), ...output.map(Math.abs))));
  const range = [-reach, reach];
  histogram(byId("size-input"), {
    values: input, range, kind: "input",
    lines: [{ at: mean, label: `batch mean ${short(mean)}`, kind: "batch" },
      { at: norm.mean[channel], label: `running mean ${short(norm.mean[channel])}`, kind: "running" }],
    sentence: `Input of channel ${channel}: mean ${short(mean)}, standard deviation ${short(Math.sqrt(variance))}`,
  });
  histogram(byId("size-output"), {
    values: output, range, kind: "output", normal: true, positive: true,
    sentence: `Output of channel ${channel}: mean ${short(norm.bias[channel])}, standard deviation ${short(Math.abs(norm.weight[channel]))}`,
  });
  const meansOf = (count) => Array.from({ length: 40 }, () => {
    const x = convolve(images.batch(drawBatch(count)), network.convolutions[0]);
    return momentsOf(x, channel).mean;
  });
  const means = meansOf(size);
  const single = deviation(meansOf(1));
  const limits = [...means, norm.mean[channel]];
  const margin = Math.max(single, 1e-3);
  scatter(byId("size-means"), {
    columns: means.map(() => ""), points: means.map((y, column) => ({ column, y, kind: "batch" })),
    levels: [{ at: norm.mean[channel], label: "running mean", kind: "running" }],
    range: [Math.min(...limits) - margin, Math.max(...limits) + margin], format: (value) => short(value),
    title: `40 batches of ${plural(size, "image")}`,
    sentence: `Means of 40 batches scatter by ${short(deviation(means), 3)} around ${short(norm.mean[channel])}`,
  });
  say("size-say", ["Means of batches of ", [plural(size, "image")], " scatter by ", [short(deviation(means), 3)],
    `; single images scatter by ${short(single, 3)}, and 1/√${size} of that is ${short(single / Math.sqrt(size), 3)}.`,
    size * 4 > images.count ? " (Batches this large share most of the page's images, so they scatter less.)" : ""]);
}

/* 4 Running statistics */

const MOMENTA = [0, 0.01, 0.03, 0.1, 0.3, 0.99, 1];
const STEPS = 20;

function showMemory(run) {
  const momentum = MOMENTA[Number(byId("memory-momentum").value)];
  byId("memory-momentum-text").textContent = momentum;
  byId("memory-momentum").setAttribute("aria-valuetext", momentum);
  const size = sizeOf("memory-size");
  const channel = channelOf();
  const left = network.norms[0].trained.mean[channel];
  const points = [{ column: 0, y: 0, kind: "running" }];
  if (run) {
    network.forget();
    for (let step = 1; step <= STEPS; step += 1) {
      const { first } = network.forward(images.batch(drawBatch(size)), { training: true, momentum });
      points.push({ column: step, y: first.moments[channel].mean, kind: "batch" });
      points.push({ column: step, y: network.norms[0].mean[channel], kind: "running" });
    }
    const accuracy = accuracyOf(network, images, everyImage, 64, {});
    const ended = network.norms[0].mean[channel];
    network.restore();
    const trained = accuracyOf(network, images, everyImage, 64, {});
    const remark = {
      0: "With momentum 0 nothing is remembered.",
      0.99: "0.99 is TensorFlow's decay: here it means the last batch alone.",
      1: "With momentum 1 only the last batch counts.",
    }[momentum] ?? `After ${STEPS} batches ${percent((1 - momentum) ** STEPS, 0)} of the start is left.`;
    say("memory-say", [`Running mean of channel ${channel}: from 0 to `, [short(ended)],
      ` (training left ${short(left)}). Accuracy in eval mode with these statistics: `, [percent(accuracy)],
      `; with those of training ${percent(trained)}. ${remark} The running variance takes the batch's unbiased `,
      "variance (divided by n − 1); the batch itself is normalized by the biased one."],
    accuracy < trained - 0.05);
  } else {
    say("memory-say", [`Channel ${channel} (chosen in 3). Press the button: 20 batches go through the network in train mode; no weight changes.`]);
  }
  const values = [...points.map(({ y }) => y), left];
  scatter(byId("memory-plot"), {
    columns: Array.from({ length: STEPS + 1 }, (_, step) => (step % 5 ? "" : step)), points, joined: "running",
    levels: [{ at: left, label: `after training ${short(left)}`, kind: "eval" }],
    range: [Math.min(...values) - 0.1, Math.max(...values) + 0.1], format: (value) => short(value), title: "batches",
    sentence: `Running mean over ${STEPS} batches: ${points.filter(({ kind }) => kind === "running").map(({ y }) => short(y)).join(", ")}`,
  });
}

/* 5 Forget eval() */

const SIZES = [1, 2, 4, 8, 16, 32, 64, 128];
const tried = new Map();

function forgetEval(size, inOrder) {
  const ids = inOrder ? sorted(shuffled(everyImage, random)) : shuffled(everyImage, random);
  const during = accuracyOf(network, images, ids, size, { training: true, momentum: DATA.momentum });
  const after = accuracyOf(network, images, everyImage, 64, {});
  network.restore();
  return { during, after };
}

function showForget(run) {
  const size = sizeOf("forget-size");
  const inOrder = byId("forget-sorted").checked;
  const right = accuracyOf(network, images, everyImage, 64, {});
  if (run) {
    const result = forgetEval(size, inOrder);
    tried.set(`${size} ${inOrder}`, { size, inOrder, ...result });
    say("forget-say", ["In train mode, batches of ", [`${size}${inOrder ? ", sorted by class" : ""}`], ": ",
      [percent(result.during)], ` right; in eval mode ${percent(right)}. Call eval() now and it is `,
      [percent(result.after)], ": the pass has moved the running statistics."], result.during < right - 0.05);
  } else if (!tried.size) {
    say("forget-say", ["In eval mode ", [percent(right)], ` of the ${images.count} images are read right. What if eval() is forgotten?`]);
  }
  const points = [...tried.values()].map(({ size: images_, inOrder: hollow, during }) => ({
    column: SIZES.findIndex((value) => value >= images_), y: during, kind: hollow ? "sorted" : "batch", label: percent(during),
  }));
  scatter(byId("forget-plot"), {
    columns: SIZES, points, levels: [{ at: right, label: `eval mode ${percent(right)}`, kind: "eval" }], range: [0, 1],
    format: (value) => percent(value, 0), title: "images in a batch",
    sentence: [`Accuracy in eval mode ${percent(right)}`, ...[...tried.values()].map((one) =>
      `in train mode at ${one.size}${one.inOrder ? " sorted" : ""} ${percent(one.during)}`)].join("; "),
  });
}

/* 6 Weight and bias */

const affineBatch = everyImage.slice(0, 64);

function showAffine() {
  const channel = channelOf();
  const norm = network.norms[0];
  norm.weight[channel] = Number(byId("affine-weight").value);
  norm.bias[channel] = Number(byId("affine-bias").value);
  drawAffine();
}

function drawAffine() {
  const channel = channelOf();
  const norm = network.norms[0];
  const [weight, bias] = [norm.weight[channel], norm.bias[channel]];
  const { first } = network.forward(images.batch(affineBatch), { training: true });
  const output = channelValues(first, channel, first.output);
  const accuracy = accuracyOf(network, images, everyImage, 64, {});
  network.restore();
  const trained = accuracyOf(network, images, everyImage, 64, {});
  norm.weight[channel] = weight;
  norm.bias[channel] = bias;
  byId("affine-weight-text").textContent = short(weight);
  byId("affine-bias-text").textContent = short(bias);
  byId("affine-weight").value = weight;
  byId("affine-bias").value = bias;
  const mean = output.reduce((sum, value) => sum + value, 0) / output.length;
  const passing = output.filter((value) => value > 0).length / output.length;
  const reach = Math.max(4, Math.ceil(Math.max(...output.map(Math.abs))));
  histogram(byId("affine-plot"), {
    values: output, range: [-reach, reach], kind: "output", normal: true, positive: true,
    lines: [{ at: mean, label: `mean ${short(mean)}`, kind: "batch" }],
    sentence: `Output: mean ${short(mean)}, standard deviation ${short(deviation(output))}, ${percent(passing, 0)} above 0`,
  });
  say("affine-say", [`Channel ${channel}: mean `, [short(mean)], " (β is ", short(bias), "), spread ", [short(deviation(output))],
    ` (|γ| is ${short(Math.abs(weight))}); `, [percent(passing, 0)], " of the values pass the ReLU. Accuracy in eval mode: ",
    [percent(accuracy)], ` (as trained ${percent(trained)}).`], accuracy < trained - 0.05);
}

/** The weight and bias that give the layer's input back: nothing is lost by normalizing. */
function undoNormalization() {
  const channel = channelOf();
  const { first } = network.forward(images.batch(affineBatch), { training: true });
  const { mean, variance } = first.moments[channel];
  network.norms[0].weight[channel] = Math.sqrt(variance + network.norms[0].eps);
  network.norms[0].bias[channel] = mean;
  drawAffine();
}

/* 7 Break it */

const evalAccuracy = () => accuracyOf(network, images, everyImage, 64, {});

function showBatches(count, size, options) {
  for (let step = 0; step < count; step += 1) {
    network.forward(images.batch(drawBatch(Math.min(size, images.count))), { training: true, ...options });
  }
}

const FAULTS = {
  "statistics-never-updated": {
    label: "Running statistics never updated",
    what: "mean 0 and variance 1 in every layer, as in a model whose buffers were not loaded; eval mode",
    measure: () => { network.forget(); return evalAccuracy(); },
  },
  "inverted-momentum": {
    label: "TensorFlow's momentum 0.99",
    what: "20 batches of 4 with momentum 0.99, then eval mode",
    measure: () => { showBatches(20, 4, { momentum: 0.99 }); return evalAccuracy(); },
  },
  "eps-too-large": {
    label: "eps = 0.5",
    what: "an eps of 0.5 where the network was trained with another; eval mode",
    measure: () => { network.norms.forEach((norm) => { norm.eps = 0.5; }); return evalAccuracy(); },
  },
  "batch-too-small": {
    label: "Batches of 2, in train mode",
    what: "eval() forgotten, two images in a batch",
    measure: () => accuracyOf(network, images, shuffled(everyImage, random), 2, { training: true }),
  },
  "class-ordered-batches": {
    label: "Batches sorted by class, in train mode",
    what: "eval() forgotten, batches of 8 sorted by class",
    measure: () => accuracyOf(network, images, sorted(everyImage), 8, { training: true }),
  },
  "low-precision-statistics": {
    label: "Running statistics in bfloat16",
    what: "new statistics gathered from 400 batches of 8 at momentum 0.01, stored in bfloat16 (too coarse for such steps)",
    measure: () => {
      network.forget();
      showBatches(400, 8, { momentum: 0.01, round: toBfloat16 });
      return evalAccuracy();
    },
    beside: () => { network.forget(); showBatches(400, 8, { momentum: 0.01 }); return evalAccuracy(); },
  },
};

function breakIt(name, button) {
  const fault = FAULTS[name];
  const rule = DATA.rules[name];
  network.restore();
  const harmed = fault.measure();
  network.restore();
  const reference = fault.beside ? fault.beside() : evalAccuracy();
  network.restore();
  [...byId("break-buttons").children].forEach((other) => other.setAttribute("aria-pressed", other === button));
  say("break-say", [[`${percent(harmed)} right`], ` instead of ${percent(reference)}`,
    fault.beside ? " (the same in float32)" : "", `: ${fault.what}.`], harmed < reference - 0.02);
  byId("break-remedy").textContent = `${rule.code} ${rule.name}. Remedy: ${rule.remedy}`;
}

function buildFaults() {
  byId("break-buttons").replaceChildren(...Object.keys(DATA.rules).map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = FAULTS[name].label;
    button.setAttribute("aria-pressed", false);
    button.onclick = () => breakIt(name, button);
    return button;
  }));
  say("break-say", ["Choose a fault: accuracy is measured again on the ", [plural(images.count, "image")], " of the page."]);
}

/* 8 Predict first */

const QUESTIONS = [
  {
    ask: "The same image, the same weights, train mode, two images in the batch: in how many of 40 batches does the answer differ from eval mode's?",
    options: ["in none", "in some", "in most"],
    answer: () => {
      const alone = likeliest(network.forward(images.batch([follow.hero])).probabilities[0]);
      const others = everyImage.filter((id) => id !== follow.hero);
      const changed = Array.from({ length: 40 }, () => network.forward(
        images.batch([follow.hero, ...drawBatch(1, others)]), { training: true },
      ).probabilities[0]).filter((probabilities) => likeliest(probabilities) !== alone).length;
      return { right: changed === 0 ? 0 : changed <= 20 ? 1 : 2, text: `In ${changed} of 40.` };
    },
  },
  {
    ask: "eval() is forgotten, batches of 8 are sorted by class. Of ten images, how many are read right?",
    options: ["9 or 10", "5 to 8", "fewer than 5"],
    answer: () => {
      const share = accuracyOf(network, images, sorted(everyImage), 8, { training: true });
      return { right: share >= 0.85 ? 0 : share >= 0.5 ? 1 : 2, text: `${percent(share)} are read right: within a class, batch normalization takes away what the images have in common.` };
    },
  },
  {
    ask: "All weights of the first convolution are multiplied by 10, in train mode. How far do the probabilities move?",
    options: ["not at all (nearly)", "a little", "beyond recognition"],
    answer: () => {
      const batch = images.batch(everyImage.slice(0, 32));
      const before = network.forward(batch, { training: true }).probabilities;
      const weight = network.convolutions[0].weight;
      const kept = weight.slice();
      weight.forEach((value, index) => { weight[index] = 10 * value; });
      const after = network.forward(batch, { training: true }).probabilities;
      weight.set(kept);
      const moved = Math.max(...before.map((row, image) => Math.max(...row.map((value, label) => Math.abs(value - after[image][label])))));
      return { right: moved < 0.01 ? 0 : moved < 0.2 ? 1 : 2, text: `By ${moved.toExponential(1)} at most: normalizing divides the scale out again.` };
    },
  },
];

function buildQuestions() {
  byId("predict-questions").replaceChildren(...QUESTIONS.map((question, number) => {
    const box = document.createElement("div");
    box.className = "question";
    const fieldset = document.createElement("fieldset");
    const legend = document.createElement("legend");
    legend.textContent = question.ask;
    const result = document.createElement("p");
    result.setAttribute("aria-live", "polite");
    fieldset.append(legend, ...question.options.map((option, index) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name: `question-${number}` });
      input.onchange = () => {
        const { right, text } = question.answer();
        result.textContent = `${index === right ? "Right." : `No: ${question.options[right]}.`} ${text}`;
      };
      label.append(input, option);
      return label;
    }));
    box.append(fieldset, result);
    return box;
  }));
}

/* The page */

function start() {
  document.querySelectorAll("[data-fill]").forEach((element) => {
    element.textContent = { source: DATA.source, count: images.count }[element.dataset.fill];
  });
  byId("made").replaceChildren(...DATA.made.flatMap(([term, value]) => {
    const [name, description] = [document.createElement("dt"), document.createElement("dd")];
    name.textContent = term;
    description.textContent = value;
    return [name, description];
  }));
  byId("size-channel").replaceChildren(...Array.from(network.norms[0].mean, (_, channel) => new Option(channel, channel)));
  byId("size-channel").value = DATA.channel;
  document.querySelectorAll("input[name=mode]").forEach((input) => { input.onchange = showFollow; });
  byId("follow-size").oninput = () => { followBatch(); showFollow(); };
  byId("follow-next").onclick = () => { followBatch(); showFollow(); };
  document.querySelectorAll("input[name=kind]").forEach((input) => { input.onchange = showLayer; });
  const newSize = () => { sizeBatch = drawBatch(sizeOf("size-size")); showSize(); };
  byId("size-size").oninput = newSize;
  byId("size-next").onclick = newSize;
  byId("size-channel").onchange = () => { network.restore(); showSize(); showMemory(false); drawAffine(); };
  byId("memory-momentum").oninput = () => showMemory(false);
  byId("memory-size").oninput = () => showMemory(false);
  byId("memory-run").onclick = () => showMemory(true);
  byId("forget-size").oninput = () => showForget(false);
  byId("forget-sorted").onchange = () => showForget(false);
  byId("forget-run").onclick = () => showForget(true);
  byId("affine-weight").oninput = showAffine;
  byId("affine-bias").oninput = showAffine;
  byId("affine-undo").onclick = undoNormalization;
  byId("affine-restore").onclick = () => { network.restore(); drawAffine(); };
  follow.hero = pickHero();
  followBatch();
  showFollow();
  buildMaps();
  showLayer();
  newSize();
  showMemory(false);
  showForget(false);
  drawAffine();
  buildFaults();
  buildQuestions();
  document.body.dataset.ready = "yes";
}

start();

// The controls, and what they change.

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
  update("main", "rates", "sweeps", "curves", "activations");
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

const LISTED_SEEDS = 8; // of more seeds, a range is chosen

function seedRange(seeds) {
  const shownSeeds = seeds.filter((seed) => !state.hiddenSeeds.has(seed));
  const ends = [shownSeeds[0] ?? seeds[0], shownSeeds.at(-1) ?? seeds.at(-1)];
  const choose = (end, value) => {
    ends[end] = Number(value);
    const [low, high] = [...ends].sort((a, b) => a - b);
    state.hiddenSeeds = new Set(seeds.filter((seed) => seed < low || seed > high));
    update();
  };
  const options = seeds.map((seed) => [String(seed), String(seed)]);
  return element("span", { class: "control" }, dropdown("Seeds from", options, String(ends[0]), (value) => choose(0, value)), dropdown("to", options, String(ends[1]), (value) => choose(1, value)));
}

function runControls() {
  const rates = [...new Set(page.runs.map((run) => run.rate))].sort((a, b) => a - b);
  const seeds = [...new Set(page.runs.map((run) => run.seed))].sort((a, b) => a - b);
  const options = [...rates.map((rate) => [String(rate), number(rate)]), ["all", "all"]];
  const made = [choices("Arms", page.arms.map((arm, key) => ({ key, label: arm.label, picture: swatch(arm) })), state.hiddenArms)];
  if (seeds.length > LISTED_SEEDS) made.push(seedRange(seeds));
  else if (seeds.length > 1) made.push(choices("Seeds", seeds.map((key) => ({ key, label: String(key) })), state.hiddenSeeds));
  if (rates.length > 1) made.unshift(dropdown("Learning rate", options, String(state.rate), (value) => { state.rate = value === "all" ? null : Number(value); state.rateChosen = true; update("main", "sweeps", "curves", "activations"); }));
  const bar = element("div", { class: "toolbar", role: "group", "aria-label": "Runs shown" }, ...made, selection);
  barHeight.disconnect();
  barHeight.observe(bar);
  return bar;
}

/** What a link leads to stands below the sticky toolbar, however many lines that has. */
const barHeight = new ResizeObserver(([{ target }]) => {
  const covered = getComputedStyle(target).position === "sticky" ? target.offsetHeight : 0;
  document.documentElement.style.scrollPaddingTop = `${covered + 12}px`;
  document.documentElement.style.setProperty("--bar", `${covered}px`);
});

/** The box for logarithmic axes. Every section has one, and all of them say the same. */
function logChoice() {
  const label = choice("Log axis", state.log, (on) => {
    state.log = on;
    for (const box of document.querySelectorAll("input[data-log]")) box.checked = on;
    update("main", "curves", "layer");
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

const stepShown = () => frames()[state.frame] ?? 0;

/** {section: [what its controls depend on, the controls]}. */
const LOCAL_CONTROLS = {
  curves: [() => null, () => [logChoice(), slider("Smoothing", { most: 0.95, step: 0.05, value: state.smoothing, say: (value) => value.toFixed(2), change: (value) => { state.smoothing = value; return update("main", "curves"); } })]],
  activations: [capturedEpochs, (epochs) =>
    [slider("Epoch", { most: epochs.length - 1, value: state.epoch, say: (at) => `${epochs[at]}`, change: (at) => { state.epoch = at; return update("activations"); }, playing: true })]],
  layers: [() => [overviews(), page.layers, page.recordings, [...state.recordings]], ([names]) =>
    [dropdown("Show", names, state.overview, (name) => { state.overview = name; update("layers"); writeAddress(); }), recordingChoices()]],
  layer: [() => [frames(), page.layers, state.layer], ([steps]) => [layerList(), ...(steps.length < 2 ? [] : [frameSlider(steps)]), logChoice()]],
};

function layerList() {
  return dropdown("Layer", page.layers.map((name, k) => [String(k), name]), String(state.layer), (value) => chooseLayer(Number(value)));
}

/** The slider over the recorded steps, which says the epoch where the loop marked epochs. */
function frameSlider(steps) {
  const [recording] = shownRecordings();
  const epochs = steps.map((step) => epochOf(recording, step));
  const named = epochs.every((epoch) => epoch !== null);
  const say = (at) => (named ? `${epochs[at]} (step ${steps[at].toLocaleString("en")})` : steps[at].toLocaleString("en"));
  const change = (at) => { state.frame = at; writeAddress(); return update("layer"); };
  const made = slider(named ? "Epoch" : "Step", { most: steps.length - 1, value: state.frame, say, playing: true, change });
  made.querySelector("input").id = "frame";
  return made;
}

function moveFrame(by) {
  const input = document.getElementById("frame");
  if (!input) return;
  input.value = Number(input.value) + by;
  input.dispatchEvent(new Event("input"));
}

/** The slider over steps, when the layer or the recordings are other ones: at the last step. */
function renewFrames() {
  state.frame = Math.max(0, frames().length - 1);
  controls("layer");
}

/** Show another layer at the same moment, and bring it into sight where it is not. */
function chooseLayer(layer) {
  const step = stepShown();
  state.layer = layer;
  document.querySelector("#layer h2").textContent = `Inside one layer: ${page.layers[layer]}`;
  state.frame = Math.max(0, frames().indexOf(nearestTo(frames(), step)));
  controls("layer");
  update("layer", "layers");
  writeAddress();
  showLayer();
}

function showLayer(calm = matchMedia("(prefers-reduced-motion: reduce)").matches) {
  const box = document.getElementById("layer");
  const { top } = box.getBoundingClientRect();
  if (top < 0 || top > innerHeight - 200) box.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
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

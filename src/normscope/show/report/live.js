// The page of a server: it hears of every new version of the study, fetches what changed, and stays where the reader is.

const status = document.getElementById("live");
const address = (name, more = {}) => {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(more)) query.set(key, value);
  return `${name}?${query}`;
};

let stream = null;
let newest = page.live; // the version that the server told of
let fetching = Promise.resolve();

function say(text) {
  if (status.textContent !== text) status.textContent = text;
  status.hidden = false;
}

function sayHowFar() {
  say(`${page.progress} Live: new epochs appear by themselves.`.trim());
}

/** Follow while the page is seen: a browser opens six connections to a server, for all of its tabs together. */
function follow() {
  if (stream || document.hidden) return;
  stream = new EventSource(address("events"));
  stream.onopen = sayHowFar;
  stream.onmessage = ({ data }) => {
    newest = data;
    fetching = fetching.then(catchUp);
  };
  stream.onerror = () => {
    say("The server does not answer. This page continues when it is back.");
    if (stream.readyState === EventSource.CLOSED) retry();
  };
}

function retry() {
  leave();
  setTimeout(follow, 2000);
}

function leave() {
  stream?.close();
  stream = null;
}

async function catchUp() {
  if (newest === page.live) return;
  try {
    const response = await fetch(address("changes", { since: page.live }));
    if (!response.ok) throw new Error(`status ${response.status}`);
    const changes = await response.json();
    await takeOver(changes);
    page.live = changes.version;
    sayHowFar();
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof SyntaxError || error.message.startsWith("status"))) throw error;
    retry(); // the server went away in between; it tells the version again when it is back
  }
}

/** Keys by which things are found again when there are more of them. */
function keys() {
  return {
    arms: page.arms.map(({ label }) => label),
    runs: page.runs.map(({ id, arm }) => `${page.arms[arm].label} ${id}`),
    recordings: page.recordings.map(({ name }) => name),
    layers: [...page.layers],
    epochs: capturedEpochs(),
    frames: frames(),
  };
}

/** The same things' places after a change. */
function moved(set, before, after) {
  const places = [...set].map((place) => after.indexOf(before[place])).filter((place) => place >= 0);
  set.clear();
  for (const place of places) set.add(place);
}

/** A slider's place after a change: at the end it stays at the end, elsewhere at its value. */
function slid(place, before, after) {
  const found = place >= before.length - 1 ? -1 : after.indexOf(before[place]);
  return found >= 0 ? found : Math.max(0, after.length - 1);
}

/** What charts show beside their own data. */
function referredTo() {
  const runs = page.runs.map(({ label, arm, rate, seed, status }) => [label, arm, rate, seed, status]);
  return JSON.stringify([page.arms, runs, page.recordings, page.layers]);
}

async function takeOver({ head, order, views }) {
  const before = keys();
  const names = referredTo();
  if (head) Object.assign(page, head);
  page.views = order.map((name) => views[name] ?? byName(page.views, name));
  const all = names !== referredTo();
  const changed = page.views.filter(({ name, table }) => all || name in views || (typeof table === "string" && table in views));
  for (const chart of charts.filter(({ view }) => !order.includes(view.name))) {
    inSight.unobserve(chart.figure);
    chart.remove();
    charts.splice(charts.indexOf(chart), 1);
  }
  for (const view of page.views) {
    const chart = charts.find((known) => known.view.name === view.name);
    if (chart) chart.view = view;
    else charts.push(new Chart(view));
  }
  charts.sort((a, b) => order.indexOf(a.view.name) - order.indexOf(b.view.name));
  keepPlaces(before);
  document.title = page.title;
  document.getElementById("title").textContent = page.title;
  compose();
  drawInSight();
  await Promise.all(charts.filter(({ view }) => changed.includes(view)).map((chart) => chart.update()));
}

function keepPlaces(before) {
  const after = keys();
  moved(state.hiddenArms, before.arms, after.arms);
  moved(state.selected, before.runs, after.runs);
  moved(state.recordings, before.recordings, after.recordings);
  state.layer = Math.max(0, after.layers.indexOf(before.layers[state.layer]));
  begin();
  state.epoch = slid(state.epoch, before.epochs, after.epochs);
  state.frame = slid(state.frame, before.frames, frames());
  showSelection();
}

document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
follow();

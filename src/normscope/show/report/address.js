// The address: what is chosen stands behind its #, so that a finding can be linked.

const inFrame = location.protocol === "about:"; // of a notebook, whose address is not ours

/** Write layer, time and channel into the address, once the reader has chosen one of them. */
function writeAddress() {
  if (inFrame || !page.layers.length) return;
  const chosen = new URLSearchParams({ layer: page.layers[state.layer], ...timeInAddress() });
  if (state.channel !== null) chosen.set("channel", state.channel);
  if (state.overview !== overviews()[0]?.[0]) chosen.set("show", state.overview);
  history.replaceState(null, "", `#${chosen}`);
}

/** The epoch where the loop marked epochs, and the step where that is not the last one shown of its epoch. */
function timeInAddress() {
  const steps = frames();
  if (!steps.length) return {};
  const epoch = epochOf(shownRecordings()[0], stepShown());
  if (epoch === null) return { step: stepShown() };
  return framesIn(String(epoch)).at(-1) === stepShown() ? { epoch } : { epoch, step: stepShown() };
}

const framesIn = (epoch) => frames().filter((step) => String(epochOf(shownRecordings()[0], step)) === epoch);

/** Choose what the address names; names that are not on the page are left out. */
function readAddress() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  const layer = page.layers.indexOf(chosen.get("layer"));
  if (layer < 0) return false;
  state.layer = layer;
  const steps = frames();
  const step = chosen.has("step") ? nearestTo(steps, Number(chosen.get("step"))) : framesIn(chosen.get("epoch")).at(-1);
  state.frame = Math.max(0, step === undefined ? steps.length - 1 : steps.indexOf(step));
  state.channel = /^\d+$/.test(chosen.get("channel") ?? "") ? Number(chosen.get("channel")) : null;
  if (overviews().some(([name]) => name === chosen.get("show"))) state.overview = chosen.get("show");
  return true;
}

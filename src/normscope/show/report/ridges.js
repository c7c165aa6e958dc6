// Ridges: the channels of a layer, one under another, drawn by hand so that every panel has the same axis and channels light up together.

const litChannel = () => state.pointed ?? state.channel ?? -1;

/** Light a channel up wherever it is drawn. */
function lightUp() {
  const lit = litChannel();
  for (const { view, panels } of chartsOf("layer")) {
    for (const panel of panels.values()) {
      if (view.shape === "ridges") panel.light(lit);
      else if (panel.vega && panel.vega.signal("lit") !== lit) panel.vega.signal("lit", lit).runAsync();
    }
  }
}

function pointAt(channel) {
  if (state.pointed === channel) return;
  state.pointed = channel;
  lightUp();
}

function keepLit(channel) {
  state.channel = state.channel === channel ? null : channel;
  lightUp();
  writeAddress();
}

/** About `count` round values within [low, high]. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((times) => size * times >= rough);
  const first = Math.ceil(low / step);
  return range(Math.floor(high / step) - first + 1).map((k) => Number(((first + k) * step).toPrecision(6)));
}

class Ridges {
  static LEFT = 26;
  static TOP = 14;
  static BOTTOM = 22;

  constructor(chart, host) {
    this.chart = chart;
    this.heading = element("h4");
    this.caption = element("p");
    this.plot = element("div", { class: "plot ridges", tabindex: 0, role: "img", "data-clickable": true });
    this.box = element("div", { class: "panel" }, this.heading, this.caption, this.plot);
    host.append(this.box);
    this.plot.addEventListener("pointermove", (event) => this.point(this.under(event), event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("click", (event) => { const found = this.under(event); if (found) keepLit(found.channel); });
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.sizes = new ResizeObserver(() => this.shown && this.plot.clientWidth !== this.width && this.paint());
    this.sizes.observe(this.plot);
  }

  remove() {
    this.sizes.disconnect();
    this.box.remove();
  }

  draw(panel) {
    this.shown = panel;
    this.rows = panel.rows;
    this.heading.textContent = panel.label;
    this.caption.textContent = panel.caption;
    this.plot.setAttribute("aria-label", `${this.chart.view.title}, ${panel.label}, step ${panel.step}. ${plural(panel.ridges.length, "channel")}. Arrow up and down read the channels, left and right move in time, Enter keeps one lit.`);
    this.paint();
  }

  /** Draw what is shown at the width that there is. */
  paint() {
    const { ridges, first, span, colour, region, normal } = this.shown;
    const { LEFT, TOP, BOTTOM } = Ridges;
    this.width = this.plot.clientWidth;
    const inner = Math.max(60, this.width - LEFT - 4);
    this.pitch = ridges.length <= 16 ? 22 : ridges.length <= 32 ? 15 : 9;
    const height = TOP + this.pitch * ridges.length;
    const across = (value) => ((value - span[0]) / (span[1] - span[0])) * inner;
    const inside = svgElement("svg", { x: LEFT, y: 0, width: inner, height: height + 1, overflow: "hidden" });
    for (const [low, high] of region) {
      const [from, to] = [low ?? span[0], high ?? span[1]].map((value) => across(Math.max(span[0], Math.min(value, span[1]))));
      inside.append(svgElement("rect", { class: "region", x: from, y: 0, width: Math.max(0, to - from), height }));
    }
    inside.append(svgElement("line", { class: "zero", x1: across(0), x2: across(0), y1: 0, y2: height }));
    const before = new Map(first.map((one) => [one.channel, one]));
    ridges.forEach((one, k) => inside.append(this.ridge(one, before.get(one.channel), TOP + this.pitch * (k + 1), across, colour, normal)));
    const svg = svgElement("svg", { width: this.width, height: height + BOTTOM, "aria-hidden": "true" }, inside);
    const every = Math.ceil(11 / this.pitch);
    ridges.forEach(({ channel }, k) => k % every || svg.append(svgElement("text", { class: "tick end", x: LEFT - 5, y: TOP + this.pitch * (k + 1) }, String(channel))));
    for (const value of ticks(...span, Math.max(3, inner / 60))) {
      svg.append(svgElement("text", { class: "tick middle", x: LEFT + across(value), y: height + 16 }, String(value).replace("-", "−")));
      svg.append(svgElement("line", { class: "zero", x1: LEFT + across(value), x2: LEFT + across(value), y1: height, y2: height + 4 }));
    }
    this.plot.replaceChildren(svg);
    this.light(litChannel());
  }

  /** One channel: its distribution, the first one as an outline, and N(0, 1). */
  ridge(one, before, base, across, colour, normal) {
    const top = 1.55 * this.pitch;
    const line = (xs, heights) => xs.map((x, k) => `${k ? "L" : "M"}${across(x).toFixed(1)} ${(base - top * heights[k]).toFixed(1)}`).join("");
    const closed = ({ xs, heights }) => (xs.length ? `${line(xs, heights)}L${across(xs.at(-1)).toFixed(1)} ${base}L${across(xs[0]).toFixed(1)} ${base}Z` : "");
    const group = svgElement("g", { class: "ridge", "data-channel": one.channel });
    group.append(svgElement("path", { class: "now", d: closed(one), fill: colour, stroke: colour }));
    if (normal) {
      const xs = range(41).map((k) => (k - 20) * 0.17);
      group.append(svgElement("path", { class: "normal", d: line(xs, xs.map((x) => Math.exp((-x * x) / 2))) }));
    }
    if (before) group.append(svgElement("path", { class: "first", d: line(before.xs, before.heights) }));
    return group;
  }

  light(lit) {
    this.plot.classList.toggle("some", lit >= 0 && this.shown.ridges.some(({ channel }) => channel === lit));
    for (const group of this.plot.querySelectorAll(".ridge")) group.classList.toggle("lit", Number(group.dataset.channel) === lit);
  }

  under(event) {
    const row = Math.round((event.clientY - this.plot.getBoundingClientRect().top - Ridges.TOP) / this.pitch - 0.7);
    return this.shown?.ridges[Math.max(0, Math.min(row, this.shown.ridges.length - 1))];
  }

  point(one, { clientX, clientY }) {
    if (!one) return;
    pointAt(one.channel);
    showTooltip(`channel ${one.channel}\nmean ${number(one.mean)}, std ${number(one.std)}`, clientX, clientY);
  }

  leave() {
    tooltip.hidden = true;
    pointAt(null);
  }

  key(event) {
    const { ridges } = this.shown;
    const at = ridges.findIndex(({ channel }) => channel === litChannel());
    if (event.key === "Escape") return this.leave();
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") moveFrame(event.key === "ArrowLeft" ? -1 : 1);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const next = ridges[Math.max(0, Math.min(at + (event.key === "ArrowUp" ? -1 : 1), ridges.length - 1))];
      const box = this.plot.getBoundingClientRect();
      this.point(next, { clientX: box.left + box.width / 2, clientY: box.top + Ridges.TOP + this.pitch * (ridges.indexOf(next) + 1) });
    } else if ((event.key === "Enter" || event.key === " ") && at >= 0) keepLit(ridges[at].channel);
    else return undefined;
    return event.preventDefault();
  }
}

/* Small figures in SVG. Each has a sentence for those who cannot see it. */

const SVG = "http://www.w3.org/2000/svg";

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** An empty figure of this size, with its sentence. */
function blank(svg, width, height, sentence) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", sentence);
}

const short = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;

/**
 * A histogram as a density. lines: [{at, label, kind}] upright lines; normal: draw N(0, 1);
 * positive: shade what passes the ReLU.
 */
function histogram(svg, { values, range, kind, lines = [], normal = false, positive = false, sentence }) {
  const [width, height, bottom, bins] = [420, 230, 186, 48];
  const [low, high] = range;
  blank(svg, width, height, sentence);
  const x = (value) => 12 + ((value - low) / (high - low)) * (width - 24);
  const counts = new Array(bins).fill(0);
  values.forEach((value) => {
    const bin = Math.floor(((value - low) / (high - low)) * bins);
    counts[Math.min(bins - 1, Math.max(0, bin))] += 1;
  });
  const densities = counts.map((count) => (count / values.length) * (bins / (high - low)));
  const top = Math.max(0.45, ...densities) * 1.06;
  const y = (density) => bottom - (density / top) * (bottom - 14);
  if (positive && high > 0) {
    draw(svg, "rect", { x: x(0), y: 8, width: width - 12 - x(0), height: bottom - 8, class: "passes" });
    draw(svg, "text", { x: width - 14, y: 20, "text-anchor": "end" }, "passes the ReLU");
  }
  densities.forEach((density, bin) => {
    const left = low + (bin * (high - low)) / bins;
    draw(svg, "rect", {
      x: x(left), y: y(density), width: (width - 24) / bins - 0.6, height: bottom - y(density), class: kind,
    });
  });
  if (normal) {
    const points = Array.from({ length: 121 }, (_, index) => {
      const value = low + (index * (high - low)) / 120;
      return `${x(value)},${y(Math.exp((-value * value) / 2) / Math.sqrt(2 * Math.PI))}`;
    });
    draw(svg, "polyline", { points: points.join(" "), class: "normal" });
  }
  lines.forEach(({ at, label, kind: colour }, index) => {
    if (at < low || at > high) return;
    const end = at > (low + high) / 2;
    const row = index + (positive ? 1 : 0); // below what the shading is called
    draw(svg, "line", { x1: x(at), x2: x(at), y1: 12 + 16 * row, y2: bottom, class: `line ${colour}` });
    draw(svg, "text", {
      x: x(at) + (end ? -5 : 5), y: 22 + 16 * row, "text-anchor": end ? "end" : "start", class: colour,
    }, label);
  });
  axis(svg, x, ticks(low, high), bottom, width);
}

function axis(svg, x, values, bottom, width) {
  draw(svg, "line", { x1: 12, x2: width - 12, y1: bottom, y2: bottom, class: "axis" });
  values.forEach((value) => draw(svg, "text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, value));
}

/** Round numbers within a range: five to ten of them. */
function ticks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(6)));
}

/**
 * Points over a row of columns. columns: labels below; points: [{column, y, kind, label}];
 * level: {y, label, kind} a line across; range: of y; format: of its ends.
 */
function scatter(svg, { columns, points, levels = [], range, format, title, sentence, joined = false }) {
  const [width, height, bottom, left] = [560, 230, 180, 52];
  const [low, high] = range;
  blank(svg, width, height, sentence);
  const x = (column) => left + 24 + (column * (width - left - 60)) / Math.max(1, columns.length - 1);
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - 20);
  [low, (low + high) / 2, high].forEach((value) => {
    draw(svg, "line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "grid-line" });
    draw(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value));
  });
  columns.forEach((label, column) => {
    if (label !== "") draw(svg, "text", { x: x(column), y: bottom + 18, "text-anchor": "middle" }, label);
  });
  draw(svg, "text", { x: (left + width) / 2, y: height - 10, "text-anchor": "middle" }, title);
  levels.forEach(({ at, label, kind }) => {
    draw(svg, "line", { x1: left, x2: width - 8, y1: y(at), y2: y(at), class: `line ${kind}` });
  });
  if (joined) {
    const line = points.filter((point) => point.kind === joined);
    draw(svg, "polyline", {
      points: line.map(({ column, y: value }) => `${x(column)},${y(value)}`).join(" "), class: `line ${joined}`,
    });
  }
  points.forEach(({ column, y: value, kind, label }) => {
    draw(svg, "circle", { cx: x(column), cy: y(value), r: joined ? 3 : 5.5, class: `dot ${kind}` });
  });
  const put = labeller(svg, bottom - 4);
  levels.forEach(({ at, label, kind }) => put(label, width - 10 - WIDE * label.length, y(at), kind));
  points.forEach(({ column, y: value, label }) => label && put(label, Math.min(x(column) + 9, width - 2 - WIDE * label.length), y(value), ""));
}

const WIDE = 7.2; // pixels of a letter, about

/** Puts labels above what they are of, else below or farther away: where no other one is, and left out where all is taken. */
function labeller(svg, bottom) {
  const taken = [];
  return (label, left, y, kind) => {
    const right = left + WIDE * label.length;
    const free = (at) => at > 10 && at < bottom && taken.every((other) => Math.abs(other.at - at) >= 15 || other.left > right || other.right < left);
    const at = [-8, 16, -23, 31, -38, 46].map((off) => y + off).find(free);
    if (at === undefined) return;
    taken.push({ at, left, right });
    draw(svg, "text", { x: left, y: at, class: kind }, label);
  };
}

/** Bars of the probabilities of every class; `marked` is the true one. */
function bars(svg, { labels, values, thin, marked, sentence }) {
  const [width, height, bottom] = [420, 170, 126];
  blank(svg, width, height, sentence);
  const step = (width - 16) / labels.length;
  labels.forEach((label, index) => {
    const left = 8 + index * step;
    const tall = values[index] * (bottom - 12);
    const small = thin[index] * (bottom - 12);
    draw(svg, "rect", {
      x: left, y: bottom - tall, width: step * 0.5, height: tall + 1, class: index === marked ? "right" : "wrong",
    });
    draw(svg, "rect", {
      x: left + step * 0.55, y: bottom - small, width: step * 0.25, height: small + 1, class: "remembered",
    });
    const turned = labels.some((name) => name.length > 4);
    const attributes = turned
      ? { x: left + step * 0.4, y: bottom + 12, transform: `rotate(35 ${left + step * 0.4} ${bottom + 12})` }
      : { x: left + step * 0.4, y: bottom + 18, "text-anchor": "middle" };
    draw(svg, "text", attributes, label.length > 9 ? `${label.slice(0, 8)}…` : label);
  });
}

/** A test image on a canvas of its own size; grey images are drawn dark on light. */
function paint(canvas, images, id) {
  const { side, colours, pixels } = images;
  canvas.width = side;
  canvas.height = side;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(side, side);
  for (let pixel = 0; pixel < side * side; pixel += 1) {
    const start = (id * side * side + pixel) * colours;
    const rgb = colours === 3
      ? pixels.slice(start, start + 3) : new Array(3).fill(255 - pixels[start]);
    picture.data.set([...rgb, 255], pixel * 4);
  }
  context.putImageData(picture, 0, 0);
}

/** Values of one map on a canvas: orange above 0, blue below. */
function paintMap(canvas, values, side, largest) {
  canvas.width = side;
  canvas.height = side;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(side, side);
  values.forEach((value, pixel) => {
    const share = Math.min(1, Math.abs(value) / largest);
    const colour = value > 0 ? [213, 94, 0] : [0, 114, 178];
    picture.data.set([...colour.map((part) => 255 + (part - 255) * share), 255], pixel * 4);
  });
  context.putImageData(picture, 0, 0);
}

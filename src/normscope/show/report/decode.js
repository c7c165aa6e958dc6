"use strict";
// Decoding: base64 to numbers, once for every column.

const TYPES = { float32: Float32Array, uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array };
const MISSING = { uint8: 255, uint16: 65535 };

function decodeColumn(column) {
  const text = atob(column.data);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  const codes = new TYPES[column.kind](bytes.buffer);
  if (column.scale === undefined) return codes;
  const values = new Float64Array(codes.length);
  const missing = MISSING[column.kind];
  for (let k = 0; k < codes.length; k++) values[k] = codes[k] === missing ? NaN : column.low + column.scale * codes[k];
  return values;
}

const decoded = new WeakMap();

/** {columns, curve, points, axes, length} of a view, decoded when it is first shown. */
function tableOf(view) {
  if (typeof view.table === "string") return tableOf(page.views.find(({ name }) => name === view.table));
  if (!decoded.has(view)) {
    const columns = {};
    for (const [name, column] of Object.entries(view.table.columns)) columns[name] = decodeColumn(column);
    const curve = view.table.curve && decodeColumn(view.table.curve);
    const { points, axes, levels } = view.table;
    decoded.set(view, { columns, curve, points, axes, levels, length: Object.values(columns)[0].length });
  }
  return decoded.get(view);
}

/** Where point k of row's curve lies; `side` names the columns of its ends where there are several pairs. */
function place(table, row, k, side = "") {
  if (table.axes.length) return table.axes[table.columns.axis[row]][k];
  const low = table.columns[`low${side}`][row];
  return low + ((table.columns[`high${side}`][row] - low) * (k + 0.5)) / table.points;
}

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

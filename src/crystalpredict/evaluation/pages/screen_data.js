"use strict";
// The rows, and which of them are shown. Texts of the table reach the page by textContent alone.

const byId = id => document.getElementById(id);
const many = number => number.toLocaleString("en");

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

async function unpacked() {
  const packed = atob(byId("data").textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function numbers(list) {
  if (!list) return null;
  const made = new Float64Array(list.length);
  for (let i = 0; i < list.length; i++) made[i] = list[i] === null ? NaN : list[i];
  return made;
}

// the values of some rows, or of all, in ascending order; plain loops are ten times as fast as from, map and filter
function sortedOf(column, rows) {
  if (rows && rows.length === N) return column.sorted;
  const { values, log } = column, length = rows ? rows.length : values.length;
  const found = new Float64Array(length);
  let count = 0;
  for (let i = 0; i < length; i++) {
    const value = values[rows ? rows[i] : i];
    if (Number.isFinite(value) && (!log || value > 0)) found[count++] = value;
  }
  return found.slice(0, count).sort();
}

let D; // the rows, by column
let N = 0;
let shown = []; // numbers of the rows that the filters leave, in the order of the file
let masks; // 4 words of 32 bits a row: the elements of its formula
const chosen = { query: "", status: "all", mode: "all", elements: new Map(), limits: [], kind: null };

function prepare(data) {
  D = data;
  N = D.path.length;
  for (const column of D.numbers) {
    column.values = numbers(column.values);
    column.low = numbers(column.low);
    column.high = numbers(column.high);
    column.title = column.unit ? `${column.label}, ${column.unit}` : column.label;
    column.sorted = sortedOf(column, null);
    if (column.log && column.sorted.length < 2) {
      column.log = false;
      column.sorted = sortedOf(column, null);
    }
  }
  D.atoms = numbers(D.atoms);
  chosen.limits = D.numbers.map(() => [-Infinity, Infinity]);
  D.search = D.path.map((path, row) => `${D.formula[row]} ${path}`.toLowerCase());
  const bits = new Map(D.elements.map((symbol, place) => [symbol, place]));
  const known = new Map();
  masks = new Int32Array(4 * N);
  for (let row = 0; row < N; row++) {
    const formula = D.formula[row];
    let own = known.get(formula);
    if (!own) {
      own = mask(formula.match(/[A-Z][a-z]?/g) || [], bits);
      known.set(formula, own);
    }
    masks.set(own, 4 * row);
  }
}

function mask(symbols, bits) {
  const words = new Int32Array(4);
  for (const symbol of symbols) {
    const bit = bits.get(symbol);
    if (bit !== undefined) words[bit >> 5] |= 1 << (bit & 31);
  }
  return words;
}

function filter() {
  const bits = new Map(D.elements.map((symbol, place) => [symbol, place]));
  const picked = wish => mask([...chosen.elements].filter(pair => pair[1] === wish).map(pair => pair[0]), bits);
  const wanted = picked("with"), unwanted = picked("without"), some = wanted.some(word => word);
  const query = chosen.query.trim().toLowerCase();
  const limits = chosen.limits.map((pair, place) => [D.numbers[place].values, ...pair])
    .filter(limit => limit[1] > -Infinity || limit[2] < Infinity);
  const kind = chosen.kind;
  shown = [];
  for (let row = 0; row < N; row++) {
    const failed = D.error[row] >= 0, warned = D.warning[row].length > 0;
    if (chosen.status === "good" && failed || chosen.status === "failed" && !failed) continue;
    if (chosen.status === "warned" && !warned || chosen.status === "clean" && (warned || failed)) continue;
    if (query && !D.search[row].includes(query)) continue;
    if (!elementsMatch(row, wanted, unwanted, some)) continue;
    if (limits.some(([values, low, high]) => !(values[row] >= low && values[row] <= high))) continue;
    if (kind && !ofKind(row, kind)) continue;
    shown.push(row);
  }
}

function elementsMatch(row, wanted, unwanted, some) {
  let any = false, all = true, none = true, others = 0;
  for (let word = 0; word < 4; word++) {
    const own = masks[4 * row + word];
    any ||= (own & wanted[word]) !== 0;
    all &&= (own & wanted[word]) === wanted[word];
    none &&= (own & unwanted[word]) === 0;
    others |= own & ~wanted[word];
  }
  if (!none) return false;
  return !some || (chosen.mode === "any" ? any : chosen.mode === "only" ? any && !others : all);
}

function ofKind(row, [what, name]) {
  if (what === "reason") return D.error[row] >= 0 && D.errors.kinds[D.errors.kindOf[D.error[row]]] === name;
  return D.warning[row].some(code => D.warnings.kinds[D.warnings.kindOf[code]] === name);
}

// numbers as text

function withDigits(column, value, fewer = 1) {
  if (!Number.isFinite(value)) return "–";
  const text = column.decimals === null ? String(Number(value.toPrecision(6))) : value.toFixed(Math.max(column.decimals - fewer, 0));
  return /^-0(\.0*)?$/.test(text) ? text.slice(1) : text;
}

function intervalText(column, row, fewer = 2) {
  if (!column.low || !Number.isFinite(column.low[row])) return "";
  return `${withDigits(column, column.low[row], fewer)} to ${withDigits(column, column.high[row], fewer)}`;
}

function formulaNodes(formula) {
  return formula.split(/((?<=[A-Za-z)])[0-9.]+)/).map((part, place) => place % 2 ? element("sub", {}, part) : part);
}

const nameOf = row => D.formula[row] || `row ${many(D.row[row])}`;

function quantile(sorted, share) {
  const place = share * (sorted.length - 1), below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

// axes

function ticksOf(low, high, log, most) {
  const found = [];
  if (log) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    const inside = found.filter(tick => tick >= low && tick <= high);
    return inside.length > most ? inside.filter(tick => Math.abs(Math.log10(tick) % 1) < 1e-9) : inside;
  }
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(digit => digit * power >= rough) * power;
  for (let number = Math.ceil(low / step); number * step <= high; number++) found.push(Number((number * step).toPrecision(10)));
  return found;
}

const tickText = tick => Math.abs(tick) >= 1e5 || (tick && Math.abs(tick) < 1e-4) ? tick.toExponential(0) : String(tick);

// the part of an axis where nearly all rows are, so that a few far ones do not hide the others
function rangeOf(column) {
  const values = column.sorted;
  if (!values.length) return [0, 1];
  let low = quantile(values, 0.002), high = quantile(values, 0.998);
  if (values[0] > low - (high - low) * 0.25) low = values[0];
  if (values[values.length - 1] < high + (high - low) * 0.25) high = values[values.length - 1];
  if (!(high > low)) [low, high] = column.log ? [low / 1.1, high * 1.1] : [low - 0.5, high + 0.5];
  if (column.log) {
    const margin = (high / low) ** 0.03;
    return [low / margin, high * margin];
  }
  const margin = 0.03 * (high - low);
  return [low - margin, high + margin];
}

const shareOf = (value, [low, high], log) => log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);

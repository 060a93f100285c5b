// Histograms of each property, and the map: two properties of all rows, as points or, for many rows, as counts.

const BINS = 32, MAX_POINTS = 3000, MAX_INTERVALS = 250, CELL = 6, REACH = 14;
const SHADES = ["l2", "l3", "l4", "l5", "l6", "l7"];
const LEFT = 62, RIGHT = 12, TOP = 10, BOTTOM = 46;
const SVG = "http://www.w3.org/2000/svg";
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function drawing(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// histograms

function makeCharts() {
  D.numbers.forEach((column, place) => {
    if (column.sorted.length < 2) return;
    const limit = (end, text) => {
      const input = element("input", { type: "number", step: "any", "aria-label": `${column.title}: ${text}` });
      input.addEventListener("change", () => {
        chosen.limits[place][end] = input.value === "" ? [-Infinity, Infinity][end] : Number(input.value);
        update();
      });
      return element("label", {}, text, " ", input);
    };
    column.picture = drawing("svg", { viewBox: "0 0 300 120", role: "img" });
    column.caption = element("span", { className: "soft" });
    const caption = element("figcaption", {}, element("b", {}, column.title), " ", column.caption);
    const limits = element("div", { className: "limits" }, limit(0, "at least"), limit(1, "at most"));
    byId("charts").append(element("figure", { className: "chart" }, caption, column.picture, limits));
    column.range = rangeOf(column);
    column.all = countsOf(column, null);
  });
}

function countsOf(column, rows) {
  const counts = new Uint32Array(BINS);
  const { values, range, log } = column;
  const length = rows ? rows.length : values.length;
  for (let i = 0; i < length; i++) {
    const value = values[rows ? rows[i] : i];
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    const share = shareOf(value, range, log);
    counts[Math.min(BINS - 1, Math.max(0, Math.floor(share * BINS)))]++; // those beyond are in the last one
  }
  return counts;
}

function drawChart(column) {
  if (!column.picture) return;
  const some = countsOf(column, shown);
  const [first, second] = Array.from(column.all).sort((a, b) => b - a);
  const most = second && first > 4 * second ? 2 * second : first; // one bar may be far higher, as that of metals
  const width = 290 / BINS, height = 92;
  const at = place => column.log ? column.range[0] * (column.range[1] / column.range[0]) ** (place / BINS)
    : column.range[0] + (column.range[1] - column.range[0]) * place / BINS;
  const shapes = [], cut = [];
  for (let bin = 0; bin < BINS; bin++) {
    for (const [kind, count] of [["all", column.all[bin]], ["some", some[bin]]]) {
      if (!count) continue;
      const tall = Math.min(height, Math.max(1, height * count / most));
      const bar = drawing("rect", { class: kind, x: 5 + bin * width, y: 4 + height - tall, width: width - 1, height: tall });
      bar.append(drawing("title", {}, `${tickText(Number(at(bin).toPrecision(3)))} to ${tickText(Number(at(bin + 1).toPrecision(3)))}: ${many(some[bin])} of ${many(column.all[bin])}`));
      shapes.push(bar);
      if (kind === "all" && count > most) cut.push(drawing("text", { x: 9 + (bin + 1) * width, y: 12 }, `↑ ${many(count)}`));
    }
  }
  shapes.push(...cut);
  shapes.push(drawing("line", { x1: 5, x2: 295, y1: 96.5, y2: 96.5 }));
  for (const tick of ticksOf(...column.range, column.log, 6)) {
    const x = 5 + 290 * shareOf(tick, column.range, column.log);
    shapes.push(drawing("line", { x1: x, x2: x, y1: 96, y2: 100 }));
    shapes.push(drawing("text", { x: Math.min(Math.max(x, 8), 288), y: 111, "text-anchor": "middle" }, tickText(tick)));
  }
  column.picture.replaceChildren(...shapes);
  const own = sortedOf(column, shown);
  const unit = column.unit ? ` ${column.unit}` : "";
  const text = own.length ? `median ${withDigits(column, quantile(own, 0.5), 2)}, nine in ten from ${withDigits(column, quantile(own, 0.05), 2)} to ${withDigits(column, quantile(own, 0.95), 2)}` : "no values";
  column.caption.textContent = text;
  column.picture.setAttribute("aria-label", `${column.label} of ${many(own.length)} rows: ${text}${unit}`);
}

// the map

const map = { x: 0, y: 0, points: [], along: null, current: -1 };

function makeMap() {
  const drawn = D.numbers.map((column, place) => place).filter(place => D.numbers[place].sorted.length > 1);
  if (drawn.length < 2) return;
  byId("map-section").hidden = false;
  for (const [id, place] of [["x", D.axes[0]], ["y", D.axes[1]]]) {
    const start = drawn.includes(place) ? place : drawn[id === "x" ? 0 : 1];
    byId(id).append(...drawn.map(each => element("option", { value: each, selected: each === start }, D.numbers[each].title)));
    byId(id).addEventListener("change", drawMap);
  }
  byId("intervals").addEventListener("change", drawMap);
  const over = byId("over");
  over.addEventListener("pointermove", event => point(nearest(event)));
  over.addEventListener("pointerleave", () => point(-1));
  over.addEventListener("blur", () => point(-1));
  over.addEventListener("click", event => {
    const row = nearest(event);
    if (row >= 0) openRow(row);
  });
  over.addEventListener("keydown", event => {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in steps && map.points.length) {
      map.along ||= map.points.slice().sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(each => each[2]);
      const now = map.along.indexOf(map.current);
      const next = now < 0 ? 0 : now + steps[event.key];
      point(map.along[Math.min(Math.max(next, 0), map.along.length - 1)]);
      event.preventDefault();
    } else if (event.key === "Enter" && map.current >= 0) openRow(map.current);
  });
  new ResizeObserver(drawMap).observe(byId("map"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
}

function prepared(canvas) {
  const { clientWidth: width, clientHeight: height } = byId("map");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

const position = (column, value, from, to) => from + (to - from) * shareOf(value, column.mapRange, column.log);

function drawMap() {
  if (byId("map-section").hidden || !byId("map").clientWidth) return;
  const x = D.numbers[map.x = Number(byId("x").value)], y = D.numbers[map.y = Number(byId("y").value)];
  for (const column of [x, y]) column.mapRange = rangeOf(column);
  const { pen, width, height } = prepared(byId("points"));
  const right = width - RIGHT, bottom = height - BOTTOM;
  map.frame = { right, bottom };
  drawAxes(pen, x, y, right, bottom, width, height);
  map.points = [];
  let beyond = 0;
  for (const row of shown) {
    const one = x.values[row], two = y.values[row];
    if (!Number.isFinite(one) || !Number.isFinite(two)) continue;
    if ((x.log && one <= 0) || (y.log && two <= 0)) continue;
    const [px, py, outside] = spot(row);
    map.points.push([px, py, row]);
    beyond += outside;
  }
  map.along = null;
  const counted = map.points.length > MAX_POINTS;
  const bars = byId("intervals").checked;
  const note = [];
  if (counted) note.push(`Colours: 1 to ${many(drawCounts(pen))} rows in each square.`);
  else {
    if (bars && map.points.length <= MAX_INTERVALS) for (const [, , row] of map.points) drawInterval(pen, row, "soft", 0.45);
    pen.fillStyle = colour("accent");
    pen.globalAlpha = map.points.length > 500 ? 0.5 : 0.75;
    for (const [px, py] of map.points) disc(pen, px, py, 3.2);
    pen.globalAlpha = 1;
  }
  drawHits(pen, note);
  if (bars && map.points.length > MAX_INTERVALS) note.push(`Intervals are drawn for at most ${MAX_INTERVALS} points; here only for the point chosen.`);
  if (beyond) note.push(`${many(beyond)} rows beyond the axes are at the edge.`);
  note.push("Point at a row, or choose one by the arrow keys, for its values; click or press Enter for all of them.");
  byId("map-note").textContent = note.join(" ");
  byId("over").setAttribute("aria-label", `${y.title} over ${x.title}, ${many(map.points.length)} rows`);
  point(-1);
}

// where a row is drawn: at the edge, if it is beyond the axes
function spot(row) {
  const x = D.numbers[map.x], y = D.numbers[map.y], { right, bottom } = map.frame;
  const px = position(x, x.values[row], LEFT, right), py = position(y, y.values[row], bottom, TOP);
  const [inX, inY] = [between(px, LEFT, right), between(py, TOP, bottom)];
  return [inX, inY, inX !== px || inY !== py];
}

const between = (value, low, high) => Math.min(Math.max(Number.isFinite(value) ? value : low, low), high);

function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fill();
}

function drawAxes(pen, x, y, right, bottom, width, height) {
  pen.strokeStyle = colour("line");
  pen.fillStyle = colour("soft");
  pen.lineWidth = 1;
  const line = (x1, y1, x2, y2) => {
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
  };
  pen.textAlign = "center";
  for (const tick of ticksOf(...x.mapRange, x.log, Math.max(4, width / 100))) {
    const at = Math.round(position(x, tick, LEFT, right)) + 0.5;
    line(at, TOP, at, bottom);
    pen.fillText(tickText(tick), at, bottom + 16);
  }
  pen.textAlign = "right";
  for (const tick of ticksOf(...y.mapRange, y.log, Math.max(3, height / 60))) {
    const at = Math.round(position(y, tick, bottom, TOP)) + 0.5;
    line(LEFT, at, right, at);
    pen.fillText(tickText(tick), LEFT - 6, at + 4);
  }
  pen.strokeStyle = colour("strong-line");
  pen.strokeRect(LEFT + 0.5, TOP + 0.5, right - LEFT, bottom - TOP);
  if (x.name.startsWith("hull_distance") && x.mapRange[0] < 0) {
    pen.setLineDash([5, 4]);
    line(position(x, 0, LEFT, right), TOP, position(x, 0, LEFT, right), bottom);
    pen.setLineDash([]);
  }
  pen.fillStyle = colour("ink");
  pen.textAlign = "center";
  pen.fillText(x.title, (LEFT + right) / 2, height - 8, right - LEFT);
  pen.save();
  pen.translate(14, (TOP + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(y.title, 0, 0, bottom - TOP);
  pen.restore();
}

function drawCounts(pen) {
  const counts = new Map();
  for (const [px, py] of map.points) {
    const key = Math.floor((Math.min(px, map.frame.right - 1) - LEFT) / CELL) * 4096 + Math.floor((Math.min(py, map.frame.bottom - 1) - TOP) / CELL);
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  const most = Math.max(...counts.values());
  const shades = SHADES.map(colour);
  for (const [key, count] of counts) {
    pen.fillStyle = shades[most > 1 ? Math.floor((shades.length - 0.001) * Math.log(count) / Math.log(most)) : 0];
    pen.fillRect(LEFT + CELL * Math.floor(key / 4096), TOP + CELL * (key % 4096), CELL, CELL);
  }
  return most;
}

function drawHits(pen, note) {
  const best = new Set(D.hits);
  const rings = map.points.filter(each => best.has(each[2]));
  pen.strokeStyle = colour("mark");
  pen.lineWidth = 2;
  for (const [px, py] of rings) {
    pen.beginPath();
    pen.arc(px, py, 6, 0, 7);
    pen.stroke();
  }
  if (rings.length) note.push(`Rings: the ${rings.length === 1 ? "row" : `${rings.length} rows`} at the top of the page.`);
}

function drawInterval(pen, row, shade, alpha) {
  const x = D.numbers[map.x], y = D.numbers[map.y], { right, bottom } = map.frame;
  const [px, py] = spot(row);
  pen.strokeStyle = colour(shade);
  pen.globalAlpha = alpha;
  pen.lineWidth = 1.5;
  pen.beginPath();
  if (x.low && Number.isFinite(x.low[row])) {
    pen.moveTo(between(position(x, x.log ? Math.max(x.low[row], 1e-9) : x.low[row], LEFT, right), LEFT, right), py);
    pen.lineTo(between(position(x, x.high[row], LEFT, right), LEFT, right), py);
  }
  if (y.low && Number.isFinite(y.low[row])) {
    pen.moveTo(px, between(position(y, y.log ? Math.max(y.low[row], 1e-9) : y.low[row], bottom, TOP), TOP, bottom));
    pen.lineTo(px, between(position(y, y.high[row], bottom, TOP), TOP, bottom));
  }
  pen.stroke();
  pen.globalAlpha = 1;
  return [px, py];
}

function nearest(event) {
  const box = byId("over").getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = REACH ** 2;
  for (const [px, py, row] of map.points) {
    const squared = (px - x) ** 2 + (py - y) ** 2;
    if (squared < least) [best, least] = [row, squared];
  }
  return best;
}

// mark a row of the map, and say what it is
function point(row) {
  const { pen, width } = prepared(byId("over"));
  const tip = byId("tip");
  map.current = row;
  tip.hidden = row < 0;
  if (row < 0) return;
  const [px, py] = drawInterval(pen, row, "mark", 1);
  pen.fillStyle = colour("mark");
  disc(pen, px, py, 4.5);
  const lines = [map.x, map.y].map(place => {
    const column = D.numbers[place], interval = intervalText(column, row);
    return `${column.label} ${withDigits(column, column.values[row])}${interval && ` (${interval})`} ${column.unit}`;
  });
  if (D.warning[row].length) lines.push("has warnings");
  tip.textContent = [`${nameOf(row)}, row ${many(D.row[row])}`, ...lines].join("\n");
  tip.style.left = px < width / 2 ? `${px + 12}px` : "";
  tip.style.right = px < width / 2 ? "" : `${width - px + 12}px`;
  tip.style.top = `${Math.max(0, py - 30)}px`;
}

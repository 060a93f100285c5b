// The table of the rows, the window with all about one row, the controls, and the start.

const PER_PAGE = 50;
const table = { page: 0, sort: null, descending: false, order: [], columns: [] };

function makeColumns() {
  const all = { numeric: true, left: false };
  table.columns = [
    { label: "row", key: row => D.row[row], text: row => many(D.row[row]), ...all },
    { label: "formula", key: row => D.formula[row], left: true },
    { label: "atoms", key: row => D.atoms[row], text: row => Number.isFinite(D.atoms[row]) ? many(D.atoms[row]) : "", ...all },
    ...D.numbers.map(column => ({ label: column.label, unit: column.unit, column, key: row => column.values[row], text: row => withDigits(column, column.values[row]), ...all })),
    ...D.texts.map(column => ({ label: column.label, key: row => column.values[row], left: true })),
    { label: "notes", key: notesOf, left: true },
    { label: "file", key: row => D.path[row] + (D.index[row] ? ` #${D.index[row]}` : ""), left: true },
  ];
  const heads = table.columns.map((column, place) => {
    const button = element("button", { type: "button" }, column.label);
    if (column.unit) button.append(element("span", { className: "unit" }, column.unit));
    button.addEventListener("click", () => sortBy(place));
    return column.head = element("th", { scope: "col", className: column.left ? "left" : "" }, button);
  });
  byId("rows").tHead.replaceChildren(element("tr", {}, ...heads));
}

function notesOf(row) {
  if (D.error[row] >= 0) return D.errors.texts[D.error[row]];
  return D.warning[row].map(code => D.warnings.texts[code]).join("; ");
}

function sortBy(place) {
  table.descending = table.sort === place && !table.descending;
  table.sort = place;
  orderRows();
}

// rows without a value come last, and equal ones stay in the order of the file
function orderRows() {
  const column = table.columns[table.sort], sign = table.descending ? -1 : 1;
  table.order = shown;
  if (column) {
    const keys = new Array(N);
    for (const row of shown) keys[row] = column.key(row);
    const missing = key => column.numeric ? !Number.isFinite(key) : key === "";
    table.order = shown.slice().sort((a, b) => {
      const one = keys[a], two = keys[b];
      return missing(one) - missing(two) || (missing(one) ? 0 : sign * (one < two ? -1 : one > two ? 1 : 0)) || a - b;
    });
  }
  for (const each of table.columns) {
    const ordered = each === column;
    each.head.setAttribute("aria-sort", ordered ? (table.descending ? "descending" : "ascending") : "none");
    each.head.firstChild.firstChild.data = each.label + (ordered ? (table.descending ? " ▼" : " ▲") : "");
  }
  toPage(0);
}

function toPage(page) {
  const pages = Math.max(1, Math.ceil(table.order.length / PER_PAGE));
  table.page = Math.min(Math.max(page || 0, 0), pages - 1);
  byId("page").value = table.page + 1;
  byId("page").max = pages;
  byId("pages").textContent = `of ${many(pages)}`;
  byId("first").disabled = byId("before").disabled = table.page === 0;
  byId("next").disabled = byId("last").disabled = table.page === pages - 1;
  const rows = table.order.slice(table.page * PER_PAGE, (table.page + 1) * PER_PAGE);
  byId("rows").tBodies[0].replaceChildren(...rows.map(lineOf));
}

function lineOf(row) {
  const intervals = byId("wide").checked;
  return element("tr", {}, ...table.columns.map((column, place) => {
    const cell = element("td", { className: column.left ? "left text" : "" });
    if (place === 1) {
      const button = element("button", { type: "button" }, ...(D.formula[row] ? formulaNodes(D.formula[row]) : ["details"]));
      button.addEventListener("click", () => openRow(row));
      cell.append(button);
    } else {
      const text = column.text ? column.text(row) : column.key(row);
      cell.textContent = text;
      if (column.left) cell.title = text;
      if (intervals && column.column) cell.append(element("span", { className: "soft" }, intervalText(column.column, row)));
    }
    return cell;
  }));
}

// all about one row

function openRow(row) {
  const line = (...cells) => element("tr", {}, ...cells.map((cell, place) => element("td", { className: place === 1 ? "" : "left" }, cell)));
  byId("detail-title").replaceChildren(...(D.formula[row] ? formulaNodes(D.formula[row]) : ["no formula"]));
  const atoms = Number.isFinite(D.atoms[row]) ? `, ${many(D.atoms[row])} atoms` : "";
  const parts = [element("p", { className: "note" }, `row ${many(D.row[row])}${atoms}`)];
  if (D.error[row] >= 0) parts.push(element("p", { className: "warning" }, D.errors.texts[D.error[row]]));
  for (const code of D.warning[row]) parts.push(element("p", { className: "warning" }, D.warnings.texts[code]));
  const lines = [];
  for (const column of D.numbers) {
    if (!Number.isFinite(column.values[row])) continue;
    lines.push(line(column.title, withDigits(column, column.values[row], 0), intervalText(column, row, 1)));
  }
  const heads = ["property", "value", "90 % interval"].map((head, place) => element("th", { className: place === 1 ? "" : "left" }, head));
  const head = element("thead", {}, ...(lines.length ? [element("tr", {}, ...heads)] : []));
  const body = element("tbody", {}, ...lines);
  for (const column of D.texts) {
    if (!column.values[row]) continue;
    const cell = element("td", { className: "left" }, column.values[row]);
    cell.colSpan = 2;
    body.append(element("tr", {}, element("td", { className: "left" }, column.label), cell));
  }
  parts.push(element("table", {}, head, body), element("p", { className: "note" }, fileOf(row)));
  byId("detail-body").replaceChildren(...parts);
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail-title").focus();
  history.replaceState(null, "", `#row=${D.row[row]}`);
}

function fileOf(row) {
  const path = D.path[row], text = path + (D.index[row] ? `, structure ${D.index[row]} counted from 0` : "");
  if (D.base === null || path.includes("#") || path.includes("\\")) return text;
  const escaped = path.split("/").map(encodeURIComponent).join("/");
  return element("a", { href: path.startsWith("/") ? `file://${escaped}` : `${D.base}/${escaped}` }, text);
}

function openNamed() {
  const found = /^#row=(\d+)$/.exec(location.hash);
  const row = found ? D.row.indexOf(Number(found[1])) : -1;
  if (row >= 0) openRow(row);
}

// rows as a file

function save() {
  const quoted = cell => /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  const values = D.numbers.flatMap(column => [["", column.values], ["_lo90", column.low], ["_hi90", column.high]]
    .filter(([, list]) => list).map(([end, list]) => [column.name + end, list]));
  const names = ["path", "index", "formula", "n_atoms", ...values.map(([name]) => name), ...D.texts.map(column => column.name), "warnings", "error"];
  const lines = table.order.map(row => [
    D.path[row], D.index[row], D.formula[row], Number.isFinite(D.atoms[row]) ? D.atoms[row] : "",
    ...values.map(([, list]) => Number.isFinite(list[row]) ? list[row] : ""), ...D.texts.map(column => column.values[row]),
    D.error[row] >= 0 ? "" : notesOf(row), D.error[row] >= 0 ? notesOf(row) : "",
  ]);
  const text = [names, ...lines].map(cells => cells.map(cell => quoted(String(cell))).join(",")).join("\n") + "\n";
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: "rows.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// controls

function update() {
  filter();
  byId("count").textContent = `${many(shown.length)} of ${many(N)} rows shown`;
  D.numbers.forEach(drawChart);
  drawMap();
  orderRows();
  showChosen();
}

function showChosen() {
  const button = (text, undo) => {
    const made = element("button", { type: "button", title: "remove" }, `${text} ×`);
    made.addEventListener("click", undo);
    return made;
  };
  const parts = [...chosen.elements].map(([symbol, wish]) => button(`${wish} ${symbol}`, () => choose(symbol, null)));
  if (chosen.kind) parts.push(button(chosen.kind[1], () => { chosen.kind = null; update(); }));
  byId("chosen").replaceChildren(...parts);
  for (const cell of document.querySelectorAll(".el")) {
    const wish = chosen.elements.get(cell.dataset.symbol);
    cell.setAttribute("aria-pressed", wish === "with" ? "true" : wish === "without" ? "mixed" : "false");
  }
}

function choose(symbol, wish) {
  if (wish) chosen.elements.set(symbol, wish);
  else chosen.elements.delete(symbol);
  update();
}

function makeElements() {
  const cells = [...document.querySelectorAll(".el")];
  if (cells.length) byId("elements-help").hidden = false;
  const placeOf = (cell, kind) => Number(new RegExp(`\\b${kind}(\\d+)\\b`).exec(cell.className)[1]);
  cells.forEach((cell, number) => {
    cell.disabled = false;
    cell.tabIndex = number ? -1 : 0; // arrow keys move between elements
    cell.addEventListener("click", () => {
      const next = { with: "without", without: null };
      const now = chosen.elements.get(cell.dataset.symbol);
      choose(cell.dataset.symbol, now ? next[now] : "with");
    });
    cell.addEventListener("keydown", event => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move) return;
      event.preventDefault();
      let [row, column] = [placeOf(cell, "r"), placeOf(cell, "c")];
      for (let step = 0; step < 18; step++) {
        [row, column] = [row + move[0], column + move[1]];
        const next = cells.find(each => placeOf(each, "r") === row && placeOf(each, "c") === column);
        if (!next) continue;
        cell.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
        return;
      }
    });
  });
}

function listen() {
  let timer = 0;
  byId("query").addEventListener("input", event => {
    clearTimeout(timer);
    timer = setTimeout(() => { chosen.query = event.target.value; update(); }, 150);
  });
  for (const id of ["status", "mode"]) byId(id).addEventListener("change", event => { chosen[id] = event.target.value; update(); });
  byId("filters").addEventListener("submit", event => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    Object.assign(chosen, { query: "", status: "all", mode: "all", kind: null, limits: D.numbers.map(() => [-Infinity, Infinity]) });
    chosen.elements.clear();
    for (const input of document.querySelectorAll(".limits input")) input.value = "";
    update();
  });
  for (const button of document.querySelectorAll(".choose")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      chosen.kind = [button.dataset.kind, button.textContent];
      update();
      byId("rows-title").scrollIntoView();
    });
  }
  const steps = { first: () => 0, before: () => table.page - 1, next: () => table.page + 1, last: () => Infinity };
  for (const [id, to] of Object.entries(steps)) byId(id).addEventListener("click", () => toPage(to()));
  byId("page").addEventListener("change", event => toPage(Math.round(Number(event.target.value)) - 1));
  byId("wide").addEventListener("change", () => toPage(table.page));
  byId("save").addEventListener("click", save);
  byId("detail").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  addEventListener("hashchange", openNamed);
}

async function start() {
  try {
    prepare(await unpacked());
  } catch (error) {
    byId("trouble").textContent = `Charts and the table of all rows cannot be shown (${error.message}): a browser of 2023 or later can show them.`;
    byId("trouble").hidden = false;
    return;
  }
  if (!N) return;
  byId("explore").hidden = byId("table-section").hidden = false;
  for (const link of document.querySelectorAll(".scripted")) link.hidden = false;
  makeColumns();
  makeCharts();
  makeMap();
  makeElements();
  listen();
  update();
  openNamed();
}

start();

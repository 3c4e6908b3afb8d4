// Shows an answer of any shape as a small table and marks changes. Values become text nodes only.

const ROWS = 8, COLUMNS = 5;

const title = (name) => name.replaceAll("_", " ");

function format(name, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") {
    if (name.endsWith("_cents")) return (value / 100).toLocaleString("en", { minimumFractionDigits: 2 });
    return value.toLocaleString("en");
  }
  if (typeof value === "object") return Array.isArray(value) ? `${value.length} items` : "…";
  return String(value);
}

const label = (name) => title(name.endsWith("_cents") ? name.slice(0, -"_cents".length) : name);

function rowsOf(answer) {
  if (Array.isArray(answer)) return answer;
  if (answer && Array.isArray(answer.items)) return answer.items;
  return null;
}

export function showAnswer(place, answer) {
  const rows = rowsOf(answer);
  const table = document.createElement("table");
  if (rows && rows.length && typeof rows[0] === "object") {
    fillList(table, rows.slice(0, ROWS));
  } else if (answer && typeof answer === "object" && !rows) {
    fillOne(table, answer);
  } else {
    const nothing = document.createElement("p");
    nothing.className = "empty";
    nothing.textContent = rows ? "No rows yet." : String(answer ?? "nothing");
    place.replaceChildren(nothing);
    return;
  }
  mark(place, table);
  place.replaceChildren(table);
}

function fillList(table, rows) {
  const names = Object.keys(rows[0]).filter((name) => typeof rows[0][name] !== "object" || rows[0][name] === null);
  const columns = names.slice(0, COLUMNS);
  const head = table.createTHead().insertRow();
  for (const name of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = label(name);
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    line.dataset.key = String(row[columns[0]]);
    for (const name of columns) fill(line.insertCell(), name, row[name]);
  }
}

function fillOne(table, answer) {
  table.className = "one";
  const body = table.createTBody();
  for (const [name, value] of Object.entries(answer)) {
    const line = body.insertRow();
    line.dataset.key = name;
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label(name);
    line.append(head);
    fill(line.insertCell(), name, value);
  }
}

function fill(cell, name, value) {
  cell.textContent = format(name, value);
  if (typeof value === "number") cell.className = "n";
}

function mark(place, table) {
  const before = new Map([...place.querySelectorAll("tbody tr")].map((row) => [row.dataset.key, row]));
  if (!before.size) return;
  for (const row of table.querySelectorAll("tbody tr")) {
    const old = before.get(row.dataset.key);
    [...row.cells].forEach((cell, n) => {
      if (old?.cells[n]?.textContent !== cell.textContent) cell.classList.add("changed");
    });
  }
}

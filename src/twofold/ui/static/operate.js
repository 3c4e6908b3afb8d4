// Shows projections and policies, and what operators can do to them. All data is shown as text, never as markup.

const MOST = 20; // parked keys shown; `twofold projections` lists all

const number = (value) => Math.round(value).toLocaleString("en");
const byId = (id) => document.getElementById(id);

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function set(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// ----------------------------------------------------------------------------------------------------------- followers

export function showFollowers(status) {
  const list = byId("followers");
  const { followers } = status;
  if (list.children.length !== followers.length || !list.querySelector("[data-name]")) {
    list.replaceChildren(...followers.map((follower) => {
      const row = element("li");
      row.dataset.name = follower.name;
      const pause = button({ label: "Pause", confirm: `Pause ${follower.name}?`, name: follower.name, verb: "pause", body: {} });
      row.append(element("span", "", follower.name), element("span"), element("span", "why"), pause);
      return row;
    }));
  }
  followers.forEach((follower, n) => {
    const row = list.children[n];
    const problems = status.health.problems.filter((problem) => problem.subject === follower.name);
    row.className = problems.length ? "bad" : follower.lag > 0 ? "late" : "good";
    set(row.children[1], progress(follower));
    row.children[3].hidden = Boolean(follower.pause);
    set(row.children[2], [...problems.map((problem) => problem.message), nodes(follower)].filter(Boolean).join(" "));
  });
}

function progress(follower) {
  const lag = follower.lag === 0 ? "up to date" : `${number(follower.lag)} behind`;
  const parked = follower.parked_count ? `, ${number(follower.parked_count)} parked` : "";
  const state = follower.pause ? "paused, " : follower.state === "stopped" ? "stopped, " : "";
  return `${state}${lag}${parked}`;
}

function nodes({ partitions }) {
  const count = (state) => partitions.filter((partition) => partition.state === state).length;
  const waiting = count("waiting"), elsewhere = count("on-another-node");
  const words = [];
  if (partitions.length > 1) words.push(`${number(partitions.length)} partitions`);
  if (elsewhere) words.push(partitions.length > 1 ? `${number(elsewhere)} on other nodes` : "on another node");
  if (waiting) words.push(partitions.length > 1 ? `${number(waiting)} wait for a node` : "waits for a node");
  return words.join(", ");
}

// ------------------------------------------------------------------------------------------------------- actions needed

const rows = new Map(); // the rows of the list by id: a button is not replaced while somebody points at it

export function showWork(status) {
  const keys = status.followers.flatMap(parkedKeys).slice(0, MOST);
  const paused = status.followers.filter((follower) => follower.pause).map(pausedFollower);
  const items = [...paused, ...status.builds.map(build), ...keys];
  const more = status.followers.reduce((sum, follower) => sum + follower.parked_count, 0) - keys.length;
  set(byId("work-more"), more > 0 ? `${number(more)} more keys are parked.` : "");
  byId("work").hidden = !items.length && !byId("work-result").textContent;
  const ids = new Set(items.map((item) => item.id));
  for (const [id, row] of rows) if (!ids.has(id)) { row.remove(); rows.delete(id); }
  for (const item of items) {
    const row = rows.get(item.id) ?? add(item);
    set(row.firstElementChild, item.text);
    item.actions.forEach((action, n) => { row.querySelectorAll("button")[n].disabled = Boolean(action.disabled); });
  }
}

export function showRejected(status) {
  const lines = status.followers.flatMap(({ name, rejected }) => rejected.map(({ command, position, code, message }) =>
    `${name}: ${command}, for event #${number(position)}: ${code}${message ? `: ${message}` : ""}`));
  const list = byId("rejected-list");
  byId("rejected-panel").hidden = !lines.length;
  if (list.dataset.shown === lines.join("\n")) return;
  list.dataset.shown = lines.join("\n");
  list.replaceChildren(...lines.slice(0, MOST).map((line) => Object.assign(element("li"), { textContent: line })));
}

function build({ name, generation, state, lag, seconds_left: left, parked_count: parked, error }) {
  const behind = lag ? `${number(lag)} events behind${left === null ? "" : `, about ${number(left)} s left`}` : "up to date";
  const trouble = `${parked ? `, ${number(parked)} parked` : ""}${error ? `. It is blocked: ${error}` : ""}`;
  const drop = { label: "Drop", confirm: "Drop it for good?", name, verb: "drop", body: {} };
  const id = JSON.stringify([name, generation, state]);
  return state === "building"
    ? { id, text: `${name}: generation ${generation} is being built, ${behind}${trouble}.`, actions: [
        { label: "Switch", name, verb: "switch", body: { generation }, disabled: lag > 0 }, drop] }
    : { id, text: `${name}: generation ${generation} served before and is on standby, ${behind}${trouble}.`, actions: [
        { label: "Switch back", name, verb: "switch-back", body: {}, disabled: lag > 0 }, drop] };
}

function pausedFollower({ name, position, pause }) {
  const actions = [{ label: "Resume", name, verb: "resume", body: {} }];
  const at = pause.position;
  if (at) actions.push({ label: `Resume without event #${number(at)}`, confirm: "Leave it out for good?", name, verb: "resume", body: { skip: at } });
  const by = pause.actor ? ` by ${pause.actor}` : "";
  return { id: JSON.stringify([name, "paused", at]), text: `${name} is paused${by} at event #${number(position)}${pause.reason ? `: ${pause.reason}` : "."}`, actions };
}

function parkedKeys({ name, parked: keys }) {
  return keys.map(({ key, position, error, waiting }) => ({
    id: JSON.stringify([name, key, position]),
    text: `${name}: ${subject(key, position)}: ${error}${behind(waiting)}`,
    actions: [
      { label: "Retry", name, verb: "retry", body: { key } },
      { label: "Skip", confirm: "Skip it for good?", name, verb: "skip", body: { key, position } },
    ],
  }));
}

function behind(waiting) {
  if (!waiting) return "";
  return waiting === 1 ? " – 1 more event waits behind it." : ` – ${number(waiting)} more events wait behind it.`;
}

function subject(key, position) {
  if (!position) return "a due command is parked";
  return key.startsWith("parked:") ? `event #${number(position)} is parked` : `key ${key} is parked at event #${number(position)}`;
}

function add({ id, actions }) {
  const row = element("li");
  const buttons = element("span", "actions");
  buttons.append(...actions.map(button));
  row.append(element("span"), buttons);
  byId("work-list").append(row);
  rows.set(id, row);
  return row;
}

function button({ label, confirm, name, verb, body }) {
  const made = element("button", "", label);
  made.type = "button";
  const reset = () => set(made, label);
  made.addEventListener("blur", reset);
  made.addEventListener("click", () => {
    if (confirm && made.textContent !== confirm) return set(made, confirm); // it cannot be undone: ask first
    reset();
    act(name, verb, body);
  });
  return made;
}

async function act(name, verb, body) {
  const result = byId("work-result");
  set(result, "…");
  try {
    const answer = await fetch(`${document.documentElement.dataset.root}/projections/${encodeURIComponent(name)}/${verb}`, {
      method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body),
    });
    const { outcome, detail } = await answer.json();
    set(result, `${name}: ${outcome ?? detail ?? "done."}`);
  } catch (error) {
    set(result, String(error));
  }
}

// Shows what follows the log, and does to it what people ask for. Whatever it says is shown as text, never as markup.

const MOST = 20; // parked keys shown: the rest is on the command line

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
      row.append(element("span", "", follower.name), element("span"), element("span", "why"));
      return row;
    }));
  }
  followers.forEach((follower, n) => {
    const row = list.children[n];
    const wrong = status.problems.filter((problem) => problem.includes(`'${follower.name}'`));
    const ill = wrong.length || follower.error || follower.parked.length;
    row.className = ill ? "ill" : follower.lag > 0 ? "late" : "well";
    set(row.children[1], standing(follower));
    set(row.children[2], [...wrong, sharing(follower)].filter(Boolean).join(" "));
  });
}

function standing(follower) {
  const lag = follower.lag === 0 ? "up to date" : `${number(follower.lag)} behind`;
  const parked = follower.parked.length ? `, ${number(follower.parked.length)} set aside` : "";
  return `${follower.state === "stopped" ? "stopped, " : ""}${lag}${parked}`;
}

function sharing({ shares }) {
  const count = (state) => shares.filter((share) => share.state === state).length;
  const waiting = count("waiting"), elsewhere = count("elsewhere");
  const words = [];
  if (shares.length > 1) words.push(`${number(shares.length)} partitions`);
  if (elsewhere) words.push(shares.length > 1 ? `${number(elsewhere)} on other nodes` : "on another node");
  if (waiting) words.push(shares.length > 1 ? `${number(waiting)} wait for a node` : "waits for a node");
  return words.join(", ");
}

// ------------------------------------------------------------------------------------------------- what is to be done

const shown = new Map(); // what stands in the list, by what it is about: a button stays the same while it is aimed at

export function showWork(status) {
  const aside = status.followers.flatMap(parked);
  const todo = [...status.builds.map(build), ...aside.slice(0, MOST)];
  set(byId("work-more"), aside.length > MOST ? `${number(aside.length - MOST)} more are set aside.` : "");
  byId("work").hidden = !todo.length && !byId("work-said").textContent;
  const wanted = new Set(todo.map((each) => each.id));
  for (const [id, row] of shown) if (!wanted.has(id)) { row.remove(); shown.delete(id); }
  for (const each of todo) {
    const row = shown.get(each.id) ?? add(each);
    set(row.firstElementChild, each.text);
    each.actions.forEach((action, n) => { row.querySelectorAll("button")[n].disabled = Boolean(action.disabled); });
  }
}

function build({ name, generation, state, lag, seconds_left: left, parked: aside, error }) {
  const behind = lag ? `${number(lag)} events behind${left === null ? "" : `, about ${number(left)} s left`}` : "up to date";
  const apart = `${aside ? `, ${number(aside)} set aside` : ""}${error ? `. It does not go on: ${error}` : ""}`;
  const drop = { label: "Give it up", sure: "Give it up for good?", name, verb: "drop", body: {} };
  const id = JSON.stringify([name, generation, state]);
  return state === "building"
    ? { id, text: `${name}: generation ${generation} is being built, ${behind}${apart}.`, actions: [
        { label: "Switch to it", name, verb: "switch", body: { generation }, disabled: lag > 0 }, drop] }
    : { id, text: `${name}: generation ${generation} served before and is kept, ${behind}${apart}.`, actions: [
        { label: "Go back to it", name, verb: "switch-back", body: {}, disabled: lag > 0 }, drop] };
}

function parked({ name, kind, parked: keys }) {
  return keys.map(({ key, position, error, waiting }) => ({
    id: JSON.stringify([name, key, position]),
    text: `${name} set ${what(kind, key, position)}: ${error}${waiting ? ` – ${number(waiting)} more wait behind it.` : ""}`,
    actions: [
      { label: "Try again", name, verb: "retry", body: { key } },
      { label: "Pass over it", sure: "Pass over it for good?", name, verb: "skip", body: { key } },
    ],
  }));
}

function what(kind, key, position) {
  if (!position) return "a command aside that was due";
  return kind === "policy" ? `event #${number(position)} aside` : `${key} aside at event #${number(position)}`;
}

function add({ id, actions }) {
  const row = element("li");
  const buttons = element("span", "actions");
  buttons.append(...actions.map(button));
  row.append(element("span"), buttons);
  byId("work-list").append(row);
  shown.set(id, row);
  return row;
}

function button({ label, sure, name, verb, body }) {
  const made = element("button", "", label);
  made.type = "button";
  const calm = () => set(made, label);
  made.addEventListener("blur", calm);
  made.addEventListener("click", () => {
    if (sure && made.textContent !== sure) return set(made, sure); // it cannot be undone: the second click does it
    calm();
    act(name, verb, body);
  });
  return made;
}

async function act(name, verb, body) {
  const said = byId("work-said");
  set(said, "…");
  try {
    const answer = await fetch(`/projections/${encodeURIComponent(name)}/${verb}`, {
      method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body),
    });
    const told = await answer.json();
    set(said, `${name}: ${told.outcome ?? told.detail ?? "done."}`);
  } catch (error) {
    set(said, String(error));
  }
}

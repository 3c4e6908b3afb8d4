// Updates the console. All data comes from the public HTTP API and is shown as text, never as markup.
import { showAnswer } from "./answer.js";
import { openSession } from "./session.js";
import { showFollowers, showRejected, showWork } from "./operate.js";

const ROOT = document.documentElement.dataset.root; // the path under which the API is public
const STREAM_LENGTH = 14; // events shown
const FRESH = 12; // past events to start with
const PROBLEMS = 3; // problems shown
const TOO_FAR = 300; // lag in events at which the stream jumps to the end of the log

const byId = (id) => document.getElementById(id);
const number = (value) => Math.round(value).toLocaleString("en");
const rate = (value) => (value >= 10 || value === 0 ? number(value) : value.toFixed(1));

function say(id, text) {
  const place = byId(id);
  if (place.textContent !== String(text)) place.textContent = text;
}

function pulse(...ids) {
  ids.forEach((id, step) => setTimeout(() => {
    const place = byId(id);
    place.classList.remove("pulse");
    void place.getBoundingClientRect(); // restarts the animation
    place.classList.add("pulse");
  }, step * 170));
}

// ------------------------------------------------------------------------------------------------------------- numbers

let before = null;

function showStatus(status) {
  showHealth(status.health);
  say("head", number(status.head));
  say("commands", number(status.commands));
  say("rejected", number(status.rejected));
  say("queries", number(status.queries));
  const projections = status.followers.filter((follower) => follower.kind === "projection");
  say("models", projections.length);
  say("behind", number(Math.max(0, ...projections.map((follower) => follower.lag))));
  say("parked", number(status.followers.reduce((sum, follower) => sum + follower.parked_count, 0)));
  showFollowers(status);
  showWork(status);
  showRejected(status);
  if (before && status.uptime > before.uptime) compare(before, status, status.uptime - before.uptime);
  before = status;
}

function showHealth({ level, problems, problem_count: count }) {
  const messages = problems.slice(0, PROBLEMS).map((problem) => problem.message);
  if (count > messages.length) messages.push(`${number(count - messages.length)} more problems.`);
  say("state", [level.replace("_", " "), messages.join(" ")].filter(Boolean).join(": "));
  byId("state").className = { ready: "state good", degraded: "state late", not_ready: "state bad" }[level];
}

function compare(then, now, seconds) {
  say("commands-rate", rate((now.commands - then.commands) / seconds));
  say("queries-rate", rate((now.queries - then.queries) / seconds));
  if (now.commands + now.rejected > then.commands + then.rejected) pulse("ui-command", "box-command");
  if (now.queries > then.queries) pulse("read-query", "box-query", "query-ui", "box-ui");
  const positions = new Map(then.followers.map((follower) => [follower.name, follower.position]));
  const moved = now.followers.filter((follower) => follower.position > (positions.get(follower.name) ?? 0));
  if (moved.length) pulse("box-sync", "sync-read", "box-read");
}

// -------------------------------------------------------------------------------------------------------------- events

const waiting = [];
let drawing = false, skipped = 0;

function addEvent(event) {
  waiting.push(event);
  if (waiting.length > STREAM_LENGTH) { waiting.shift(); skipped += 1; }
  if (drawing) return;
  drawing = true;
  setTimeout(draw, document.hidden ? 1000 : 60);
}

function draw() {
  drawing = false;
  const stream = byId("stream");
  stream.querySelector(".empty")?.remove();
  const open = waiting.splice(0);
  for (const event of open) stream.prepend(eventRow(event));
  while (stream.children.length > STREAM_LENGTH) stream.lastElementChild.remove();
  say("latest", open.at(-1).type);
  say("head", number(Math.max(open.at(-1).position, before?.head ?? 0)));
  if (skipped) say("skipped", `${number(skipped)} more events are not shown.`);
  if (open.some((event) => Date.now() - Date.parse(event.time) < 60_000)) {
    pulse("ui-command", "box-command", "command-write", "box-write", "write-sync");
  }
}

function eventRow(event) {
  const row = document.createElement("li");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.append(
    text("position", `#${event.position}`), text("type", event.type),
    text("time", new Date(event.time).toLocaleTimeString("en-GB")), text("tags", event.tags.join("  ")),
  );
  const data = document.createElement("pre");
  data.textContent = JSON.stringify(event.data, null, 2);
  data.tabIndex = 0;
  details.append(summary, data);
  row.append(details);
  return row;
}

function text(kind, value) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = value;
  return span;
}

// ------------------------------------------------------------------------------------------------------------- queries

let query = null;

async function offerQueries() {
  const api = await (await fetch(`${ROOT}/openapi.json`)).json();
  const simple = Object.entries(api.paths)
    .filter(([path, what]) => path.startsWith("/queries/") && what.get)
    .map(([path, what]) => ({ path, parameters: (what.get.parameters ?? []).filter((one) => one.in === "query") }))
    .filter(({ parameters }) => !parameters.some((one) => one.required))
    .sort((a, b) => a.parameters.length - b.parameters.length); // the simplest first
  if (!simple.length) return;
  byId("query").replaceChildren(...simple.map(({ path }) => {
    const option = document.createElement("option");
    option.value = ROOT + path;
    option.textContent = path.slice("/queries/".length);
    return option;
  }));
  byId("query").addEventListener("change", followAnswer);
  byId("ask").addEventListener("click", askAgain);
  followAnswer();
}

function followAnswer() {
  query?.stop();
  byId("answer").replaceChildren();
  query = stream(() => byId("query").value, "answer", updateAnswer);
}

async function askAgain() {
  const answer = await fetch(byId("query").value, { headers: { Accept: "application/json" } });
  if (answer.ok) updateAnswer(await answer.json());
}

function updateAnswer(answer) {
  showAnswer(byId("answer"), answer.answer);
  say("as-of", `as of event #${number(answer.position)}`);
  pulse("read-query", "box-query", "query-ui", "box-ui");
}

// ------------------------------------------------------------------------------------------------------------- streams

// A browser opens few connections to one site, so a hidden page closes its streams.
function stream(address, name, arrived, failed = () => {}) {
  let source = null;
  const stop = () => source?.close();
  const start = () => {
    stop();
    source = new EventSource(address());
    source.addEventListener(name, (message) => arrived(JSON.parse(message.data), message.lastEventId));
    source.addEventListener("error", failed);
  };
  const update = () => (document.hidden ? stop() : start());
  document.addEventListener("visibilitychange", update);
  update();
  return { restart: start, stop() { stop(); document.removeEventListener("visibilitychange", update); } };
}

function followStatus() {
  stream(() => `${ROOT}/status`, "status", showStatus, () => {
    say("state", "connection lost, reconnecting …");
    byId("state").className = "state bad";
  });
}

function followEvents() {
  let latest = 0; // position of the newest event that arrived
  const events = stream(() => `${ROOT}/events?last=${FRESH}`, "event", (event) => {
    const head = before?.head ?? 0;
    if (event.position <= latest && head >= latest) return; // a stream that starts again repeats a few
    if (latest && event.position > latest + 1) skipped += event.position - latest - 1;
    latest = event.position;
    addEvent(event);
    if (head - latest > TOO_FAR) events.restart();
  });
}

openSession().then((mayLook) => {
  if (!mayLook) {
    say("state", "not logged in");
    return;
  }
  followStatus();
  followEvents();
  offerQueries();
});

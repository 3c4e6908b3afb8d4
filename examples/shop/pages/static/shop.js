// Updates a page when the answer of its query changes, adds up the order, and sends each form once.
"use strict";

const PAUSE = 400; // milliseconds between two requests, however fast the query changes

function follow(path) {
  const mark = document.querySelector("[data-live-mark]");
  let source = null, token = null, busy = false;

  // A browser opens few connections to one site: a hidden page closes its own.
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  if (!document.hidden) start();

  function start() {
    stop();
    source = new EventSource(path);
    source.addEventListener("open", () => { if (mark) mark.hidden = false; });
    source.addEventListener("error", () => { if (mark) mark.hidden = true; });
    source.addEventListener("answer", (message) => {
      token = JSON.parse(message.data).token;
      document.documentElement.dataset.following = "yes";
      look();
    });
  }

  function stop() {
    source?.close();
    if (mark) mark.hidden = true;
  }

  async function look() {
    if (busy) return;
    busy = true;
    while (token) {
      const page = new URL(location.href);
      page.searchParams.set("position", token);
      token = null;
      const answer = await fetch(page, { headers: { Accept: "text/html" } }).catch(() => null);
      if (answer && answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      await new Promise((go) => setTimeout(go, PAUSE));
    }
    busy = false;
  }
}

function show(newer) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const other = newer.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
    if (!other || other.innerHTML === part.innerHTML) continue;
    if (part.contains(document.activeElement) && document.activeElement.matches("input")) continue; // the user types here
    const had = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.className = other.className;
    part.replaceChildren(...[...other.childNodes].map((node) => document.adoptNode(node)));
    if (had) document.getElementById(had)?.focus();
    part.classList.remove("changed");
    void part.offsetWidth; // restarts the animation
    part.classList.add("changed");
  }
}

function addUp(form) {
  const total = form.querySelector("[data-total]");
  const chosen = form.querySelector("[data-chosen]");
  const dollars = (cents) => (cents / 100).toLocaleString("en", { style: "currency", currency: "USD" });
  const refresh = () => {
    const rows = [...form.querySelectorAll("[data-price]")].filter((input) => Number(input.value) > 0);
    const cents = rows.reduce((sum, input) => sum + Number(input.value) * Number(input.dataset.price), 0);
    total.textContent = rows.length ? `· ${dollars(cents)}` : "";
    chosen.hidden = !rows.length;
    chosen.replaceChildren(...rows.map((input) => {
      const item = document.createElement("li");
      item.textContent = `${input.value} × ${input.dataset.name}`;
      return item;
    }));
    for (const input of form.querySelectorAll("[data-price]")) {
      input.closest(".record").classList.toggle("picked", Number(input.value) > 0);
    }
  };
  form.addEventListener("input", refresh);
  refresh();
}

for (const form of document.querySelectorAll("form")) {
  if (form.querySelector("[data-total]")) addUp(form);
}
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-once]")) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

const here = new URL(location.href); // the position was used; a bookmark should not contain it
if (here.searchParams.has("position")) {
  here.searchParams.delete("position");
  history.replaceState(null, "", here);
}
if (document.body.dataset.live) follow(document.body.dataset.live);

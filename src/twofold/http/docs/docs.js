// Sends the forms of the page. Responses are shown as text, never as markup.
"use strict";

const streams = new Map();

function addressOf(form) {
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("input[data-in=query]")) {
    const values = "many" in input.dataset ? input.value.split(",").map((value) => value.trim()) : [input.value];
    for (const value of values) if (value !== "") query.append(input.name, value);
  }
  let path = form.getAttribute("action");
  for (const input of form.querySelectorAll("input[data-in=path]")) {
    path = path.replace(`{${input.name}}`, () => encodeURIComponent(input.value));
  }
  const text = query.toString();
  return path + (text ? `?${text}` : "");
}

function show(form, text, problem) {
  const result = form.querySelector(".result");
  result.hidden = false;
  result.textContent = text;
  result.classList.toggle("problem", problem);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send(form) {
  const body = form.querySelector("textarea");
  const headers = { Accept: "application/json" };
  for (const input of form.querySelectorAll("input[data-in=header]")) if (input.value) headers[input.name] = input.value;
  if (body) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(addressOf(form), body ? { method: "POST", headers, body: body.value } : { headers });
    show(form, `${answer.status} ${answer.statusText}\n${pretty(await answer.text())}`, !answer.ok);
  } catch (error) {
    show(form, String(error), true);
  }
}

function follow(form, button) {
  const open = streams.get(form);
  if (open) {
    open.close();
    streams.delete(form);
    button.textContent = "Follow";
    return;
  }
  const source = new EventSource(addressOf(form));
  streams.set(form, source);
  button.textContent = "Stop";
  const lines = [];
  const add = (event) => {
    lines.unshift(pretty(event.data));
    lines.length = Math.min(lines.length, 20);
    show(form, lines.join("\n\n"), event.type === "problem");
  };
  for (const name of ["answer", "event", "status", "problem"]) source.addEventListener(name, add);
  source.onerror = () => {
    if (!lines.length) show(form, "The stream failed. Press Ask to see why.", true);
  };
  show(form, "Waiting …", false);
}

for (const form of document.querySelectorAll("form.try")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
  const button = form.querySelector("[data-follow]");
  if (button) button.addEventListener("click", () => follow(form, button));
}
for (const line of document.querySelectorAll(".curl")) line.textContent = line.textContent.replace("$HOST", new URL(".", location).href.slice(0, -1));

// The login of the console: a cookie that scripts cannot read has the key, because streams cannot send headers.
const ROOT = document.documentElement.dataset.root;
const byId = (id) => document.getElementById(id);

// Shows who is logged in, or asks for a key where the app has a login. Returns whether there is something to look at.
export async function openSession() {
  const session = await (await fetch(`${ROOT}/session`)).json();
  byId("login").hidden = !session.login || session.actor !== null;
  byId("who").hidden = session.actor === null;
  byId("actor").textContent = session.actor === null ? "" : [session.actor, ...session.roles].join(", ");
  byId("login").addEventListener("submit", logIn);
  byId("log-out").addEventListener("click", logOut);
  return byId("login").hidden;
}

async function logIn(event) {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  const answer = await fetch(`${ROOT}/session/begin`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (answer.ok) location.reload();
  else byId("login-result").textContent = (await answer.json()).detail;
}

async function logOut() {
  await fetch(`${ROOT}/session/end`, { method: "POST" });
  location.reload();
}

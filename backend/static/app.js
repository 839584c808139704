// The development page: no framework, and an example of tasks.js. Everything is shown from the copy in this browser
// (replica.js), changed there first, and sent to the service when it can be reached.
import { Replica, byPosition } from "./replica.js";
import { TasksClient, TasksError } from "./tasks.js";

const EVERY = 10_000;
const PRIORITIES = ["urgent", "high", "medium", "low", null];
const ORDERS = {
  position: byPosition,
  newest: (one, other) => (one.id < other.id ? 1 : -1),
  due: (one, other) => compare(one.due_date ?? "~", other.due_date ?? "~") || byPosition(one, other),
  priority: (one, other) => PRIORITIES.indexOf(one.priority) - PRIORITIES.indexOf(other.priority) || byPosition(one, other),
  title: (one, other) => one.title.localeCompare(other.title) || byPosition(one, other),
};

const find = (selector, within = document) => within.querySelector(selector);
const [list, filters, deleted] = ["#tasks", "#filters", "#deleted"].map((selector) => find(selector));

// The page lies at the API's root, wherever that is. The token lives as long as the tab.
const client = new TasksClient(new URL(".", location.href).href, getToken);
let [user, replica, trouble, problem] = [null, null, null, ""]; // trouble: why the service was not reached

// Signing in and out: with a token, or at Better Auth, whose session is its cookie, and gives a token whenever one is needed

const SESSION = "of the session";

async function getToken() {
  const token = sessionStorage.getItem("token");
  return token === SESSION ? (await betterAuth("/token")).token : token;
}

async function betterAuth(path, body) {
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(find("#account").dataset.url + path, { credentials: "include", ...post }).catch(() => {
    throw new Error("Better Auth does not respond to this page.");
  });
  const { code = "not_the_api", message, token } = (await response.json().catch(() => null)) ?? {}; // a portal gives no code
  if (response.ok && (token || path !== "/token")) return { token };
  throw new TasksError({ status: response.status, code, detail: message ?? "Better Auth cannot do this." });
}

async function signIn(token) {
  sessionStorage.setItem("token", token);
  client.forget();
  const before = sessionStorage.getItem("user");
  try {
    sessionStorage.setItem("user", await client.user());
  } catch (error) {
    return refuse(error);
  }
  if (before !== null && before !== sessionStorage.getItem("user")) new Replica(client, before).erase();
  start();
}

/** In all tabs: they see that the copy has gone. */
function signOut(reason) {
  replica?.erase();
  sessionStorage.removeItem("user");
  leave(reason);
}

/** In this tab alone. */
function leave(reason) {
  const text = reason + waiting(": sign in again.");
  sessionStorage.removeItem("token");
  client.forget();
  start();
  showProblem(text);
}

function refuse(error) {
  if (error.name === "AbortError") return; // somebody else's turn by now
  const end = sessionStorage.getItem("token") === SESSION ? signOut : leave; // another tab may have a better token
  end([...refusals(), error.message].join("\n"));
}

function start() {
  user = sessionStorage.getItem("token") && sessionStorage.getItem("user");
  replica = null;
  trouble = "Loading…";
  list.replaceChildren();
  deleted.replaceChildren();
  showProblem("");
  find("#sign-in").hidden = Boolean(user);
  find("#board").hidden = find("#sign-out").hidden = !user;
  find("#status").textContent = "";
  if (!user) return;
  client.expect(user); // who may not be the one that Better Auth gives a token for by now
  replica = new Replica(client, user);
  render();
  sync();
}

// Showing

function render() {
  if (replica === null) return;
  showStatus();
  showProblem();
  if (find(".moving", list)) return; // until it is dropped
  const all = replica.tasks;
  showTags(all);
  const chosen = Object.fromEntries(new FormData(filters));
  const shown = all.filter((task) => matches(task, chosen)).sort(ORDERS[chosen.sort]);
  const ids = new Set(shown.map(({ id }) => id));
  for (const row of [...list.children]) if (!ids.has(row.dataset.id)) row.remove();
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  for (const task of shown) {
    if (!rows.has(task.id)) rows.set(task.id, list.appendChild(find("#task").content.firstElementChild.cloneNode(true)));
    fill(rows.get(task.id), task);
  }
  arrange(shown.map(({ id }) => rows.get(id)), document.activeElement.closest("#tasks > li"));
  list.classList.toggle("by-hand", chosen.sort === "position");
  find("#count").textContent = `${shown.length} of ${all.length} ${all.length === 1 ? "task" : "tasks"}`;
}

// Moving an element takes the focus and the pointer away from it: the other rows move around the one that stays.
function arrange(rows, staying) {
  let next = null;
  for (const row of rows.toReversed()) {
    if (row !== staying && row.nextElementSibling !== next) list.insertBefore(row, next);
    next = row;
  }
}

function showStatus() {
  const state = replica.waiting > 0 ? "Saving…" : "Everything is saved.";
  find("#status").textContent = `Signed in as ${user}. ${trouble === null ? state : trouble + waiting(".")}`;
}

function waiting(end) {
  const count = replica?.waiting;
  return count ? ` ${count} of your changes ${count === 1 ? "waits" : "wait"} to be sent${end}` : "";
}

function fill(row, task) {
  const { title, completed, tags, priority, due_date } = task;
  row.dataset.id = task.id;
  const values = { title, tags: tags.join(", "), priority: priority ?? "", due_date: due_date ?? "" };
  for (const [name, value] of Object.entries(values)) {
    const field = find(`[name=${name}]`, row);
    if (field !== document.activeElement && field.value !== value) field.value = value; // not while somebody types there
  }
  find("[name=completed]", row).checked = completed;
  row.classList.toggle("completed", completed);
  row.classList.toggle("overdue", isOverdue(task));
  for (const field of row.querySelectorAll("[data-label]")) {
    field.setAttribute("aria-label", `${field.dataset.label}: ${title}${isOverdue(task) ? ", overdue" : ""}`);
  }
}

function showTags(tasks) {
  const names = [...new Set(tasks.flatMap(({ tags }) => tags))].sort(compare);
  const select = filters.tag;
  const wanted = select.value;
  select.replaceChildren(new Option("Any", ""), ...names.map((name) => new Option(name)));
  select.value = names.includes(wanted) ? wanted : "";
}

function matches(task, { search, show, tag }) {
  const text = [task.title, task.description ?? "", ...task.tags].join("\n").toLowerCase();
  return (
    search.toLowerCase().split(/\s+/).every((word) => text.includes(word)) &&
    (!tag || task.tags.includes(tag)) &&
    { all: true, open: !task.completed, done: task.completed, overdue: isOverdue(task) }[show]
  );
}

function isOverdue({ due_date, completed }) {
  return due_date !== null && !completed && due_date < new Date().toLocaleDateString("sv"); // today here, as YYYY-MM-DD
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

function showProblem(other = problem) {
  problem = other;
  const [alert, text] = [find("#problem"), [problem, ...refusals()].filter(Boolean).join("\n")];
  if (alert.textContent !== text) alert.textContent = text; // what is said once is not read out again
  alert.hidden = !text;
}

function say(text) {
  find("#spoken").textContent = text;
}

// Changing: the copy first, then the service

/** Returns whether there was room for the change; where there was not, what was typed must stay. */
function change(action) {
  replica.dismiss();
  showProblem("");
  try {
    action();
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
    showProblem("This browser has no room left to keep this change: it was not made.");
    return false;
  }
  render();
  sync();
  return true;
}

async function sync() {
  const mine = replica;
  if (mine === null) return;
  const error = await mine.sync().then(() => null, (error) => error);
  if (mine !== replica) return;
  const isRefused = error instanceof TasksError && error.status === 401 && error.code !== "not_the_api";
  if (isRefused) return refuse(error);
  const isOffline = error instanceof TypeError || error instanceof SyntaxError; // what responds speaks no JSON
  trouble = isOffline ? "Offline." : (error?.message ?? null);
  render();
}

/** Which changes were refused, and why; nothing of one where what it asked for is so without it. */
function refusals() {
  const said = ({ op, id, title, problem }) => {
    if (op !== "restore" || problem.code !== "task_not_found") return `“${title}”: ${problem.detail}`;
    return replica.tasks.some((task) => task.id === id) ? "" : `“${title}” is not in the trash any more.`;
  };
  return (replica?.refused ?? []).map(said).filter(Boolean);
}

find("#account").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { email, password } = Object.fromEntries(new FormData(event.target));
  try {
    await betterAuth(event.submitter.value, { name: email, email, password });
    event.target.reset();
    signIn(SESSION);
  } catch (error) {
    showProblem(error.message);
  }
});
find("#with-token").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = find("#token").value.trim();
  event.target.reset();
  signIn(token);
});
find("#sign-out").addEventListener("click", () => {
  if (sessionStorage.getItem("token") === SESSION) betterAuth("/sign-out", {}).catch(({ message }) => showProblem(message));
  signOut("");
});

find("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  const title = find("#title").value.trim();
  if (!title || change(() => replica.add({ title }))) event.target.reset();
});

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => render());

list.addEventListener("change", ({ target }) => {
  const { name, value } = target;
  const { id } = target.closest("li").dataset;
  const task = replica?.tasks.find((task) => task.id === id);
  if (!task || !target.validity.valid) return; // a field that is removed with what was typed reports a change, too
  const read = {
    title: () => value.trim(),
    completed: () => target.checked,
    tags: () => value.split(",").map((tag) => tag.trim()).filter(Boolean),
    priority: () => value || null,
    due_date: () => value || null,
  };
  if (name === "title" && !value.trim()) target.value = task.title;
  else if (!change(() => replica.change(id, { [name]: read[name]() }))) target.focus(); // what was typed stays there
});

list.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("input:not([type=checkbox])")) event.target.blur();
});

list.addEventListener("click", ({ target }) => {
  if (!target.matches(".delete")) return;
  const row = target.closest("li");
  const task = replica.tasks.find(({ id }) => id === row.dataset.id);
  const next = row.nextElementSibling ?? row.previousElementSibling;
  if (!change(() => replica.delete(task.id))) return;
  (next ? find(".delete", next) : find("#title")).focus();
  const undo = Object.assign(document.createElement("button"), { type: "button", textContent: "Undo" });
  undo.addEventListener("click", () => {
    if (!change(() => replica.restore(task))) return;
    deleted.replaceChildren();
    find(`[data-id="${task.id}"] .delete`)?.focus();
  });
  deleted.replaceChildren(`Deleted “${task.title}”.`, undo);
});

// Moving: with a pointer of any kind, or with the arrow keys

function moved(row) {
  const [above, below] = [row.previousElementSibling, row.nextElementSibling];
  if (!above && !below) return;
  const to = above ? { after: above.dataset.id } : { before: below.dataset.id };
  if (!change(() => replica.move(row.dataset.id, to))) return;
  say(`Moved to place ${[...list.children].indexOf(row) + 1} of ${list.children.length}.`);
}

list.addEventListener("pointerdown", (event) => {
  if (!event.target.matches(".handle")) return;
  const [handle, row] = [event.target, event.target.closest("li")];
  const before = row.nextElementSibling;
  handle.setPointerCapture(event.pointerId);
  row.classList.add("moving");
  handle.onpointermove = ({ clientX, clientY }) => {
    const over = document.elementFromPoint(clientX, clientY)?.closest("#tasks > li");
    if (!over || over === row) return;
    const { top, height } = over.getBoundingClientRect();
    const rows = [...list.children].filter((other) => other !== row);
    rows.splice(rows.indexOf(over) + (clientY < top + height / 2 ? 0 : 1), 0, row);
    arrange(rows, row);
  };
  handle.onpointerup = handle.onpointercancel = ({ type }) => {
    handle.onpointermove = handle.onpointerup = handle.onpointercancel = null;
    row.classList.remove("moving");
    if (type === "pointerup" && row.nextElementSibling !== before) moved(row);
    else render();
  };
});

list.addEventListener("keydown", (event) => {
  if (!event.target.matches(".handle") || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const row = event.target.closest("li");
  const other = event.key === "ArrowUp" ? row.previousElementSibling : row.nextElementSibling;
  if (!other) return;
  row[event.key === "ArrowUp" ? "after" : "before"](other);
  moved(row);
});

// `#token=…` in the address signs in, and leaves the address at once: a fragment is never sent to any server.
function signInByAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  history.replaceState(null, "", location.pathname);
  signIn(token);
  return true;
}

if (!signInByAddress()) start();
addEventListener("hashchange", signInByAddress);
addEventListener("online", sync);
addEventListener("offline", sync);
addEventListener("storage", ({ key, newValue }) => { // of another tab
  if (replica === null) return;
  if (key !== replica.key) return render();
  if (newValue === null) return signOut("You have signed out in another tab.");
  replica.load(); // at once: the changes that it holds leave the queue next
  sync();
});
document.addEventListener("visibilitychange", () => document.hidden || sync());
setInterval(() => document.hidden || sync(), EVERY);

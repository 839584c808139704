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
let [user, replica] = [null, null];

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
  const { code, message, token } = (await response.json().catch(() => null)) ?? {};
  if (!response.ok) throw new TasksError({ status: response.status, code, detail: message ?? "Better Auth cannot do this." });
  return { token };
}

function signIn(token) {
  sessionStorage.setItem("token", token);
  client.forget();
  start();
}

function signOut() {
  sessionStorage.removeItem("token");
  client.forget();
  replica?.erase();
  start();
}

async function start() {
  replica = null;
  list.replaceChildren();
  deleted.replaceChildren();
  showProblem(null);
  const token = sessionStorage.getItem("token");
  find("#sign-in").hidden = Boolean(token);
  find("#board").hidden = find("#sign-out").hidden = !token;
  find("#status").textContent = "";
  if (!token) return;
  try {
    user = await client.user();
  } catch (error) {
    return refuse(error);
  }
  replica = new Replica(client, user);
  render();
  await sync();
}

function refuse(error) {
  if (error.name === "AbortError") return; // somebody else's turn by now
  signOut();
  showProblem(error);
}

// Showing

function render() {
  const all = replica.tasks;
  showTags(all);
  const chosen = Object.fromEntries(new FormData(filters));
  const shown = all.filter((task) => matches(task, chosen)).sort(ORDERS[chosen.sort]);
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  list.classList.toggle("by-hand", chosen.sort === "position");
  shown.forEach((task, index) => {
    const row = rows.get(task.id) ?? find("#task").content.firstElementChild.cloneNode(true);
    rows.delete(task.id);
    fill(row, task);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  for (const row of rows.values()) row.remove();
  find("#count").textContent = `${shown.length} of ${all.length} ${all.length === 1 ? "task" : "tasks"}`;
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

function showProblem(error) {
  find("#problem").textContent = error?.detail ?? error?.message ?? "";
  find("#problem").hidden = !error;
}

function say(text) {
  find("#spoken").textContent = text;
}

// Changing: the copy first, then the service

function change(action) {
  showProblem(null);
  find("#status").textContent = "Saving…";
  action();
  render();
  sync();
}

async function sync() {
  const mine = replica;
  if (mine === null) return;
  const who = `Signed in as ${user}.`;
  try {
    const problems = await mine.sync();
    if (mine !== replica) return;
    if (problems.length > 0) showProblem(problems[0]);
    find("#status").textContent = `${who} Everything is saved.`;
  } catch (error) {
    if (mine !== replica) return;
    if (error instanceof TasksError && error.status === 401) return refuse(error);
    const waiting = mine.waiting === 0 ? "" : ` ${mine.waiting} of your changes wait to be sent.`;
    find("#status").textContent = `${who} ${error instanceof TypeError ? "Offline." : error.message}${waiting}`;
  }
  render();
}

find("#account").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { email, password } = Object.fromEntries(new FormData(event.target));
  try {
    await betterAuth(event.submitter.value, { name: email, email, password });
    event.target.reset();
    signIn(SESSION);
  } catch (error) {
    showProblem(error);
  }
});
find("#with-token").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = find("#token").value.trim();
  event.target.reset();
  signIn(token);
});
find("#sign-out").addEventListener("click", () => {
  if (sessionStorage.getItem("token") === SESSION) betterAuth("/sign-out", {}).catch(showProblem);
  signOut();
});

find("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  const title = find("#title").value.trim();
  event.target.reset();
  if (title) change(() => replica.add({ title }));
});

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => render());

list.addEventListener("change", ({ target }) => {
  const { name, value } = target;
  const { id } = target.closest("li").dataset;
  const read = {
    title: () => value.trim(),
    completed: () => target.checked,
    tags: () => value.split(",").map((tag) => tag.trim()).filter(Boolean),
    priority: () => value || null,
    due_date: () => value || null,
  };
  if (!target.validity.valid) return;
  if (name === "title" && !value.trim()) target.value = replica.tasks.find((task) => task.id === id).title;
  else change(() => replica.change(id, { [name]: read[name]() }));
});

list.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("input:not([type=checkbox])")) event.target.blur();
});

list.addEventListener("click", ({ target }) => {
  if (!target.matches(".delete")) return;
  const row = target.closest("li");
  const task = replica.tasks.find(({ id }) => id === row.dataset.id);
  const next = row.nextElementSibling ?? row.previousElementSibling;
  change(() => replica.delete(task.id));
  (next ? find(".delete", next) : find("#title")).focus();
  const undo = Object.assign(document.createElement("button"), { type: "button", textContent: "Undo" });
  undo.addEventListener("click", () => {
    deleted.replaceChildren();
    change(() => replica.restore(task));
    find(`[data-id="${task.id}"] .delete`)?.focus();
  });
  deleted.replaceChildren(`Deleted “${task.title}”.`, undo);
});

// Moving: with a pointer of any kind, or with the arrow keys

function moved(row) {
  const [above, below] = [row.previousElementSibling, row.nextElementSibling];
  if (!above && !below) return;
  change(() => replica.move(row.dataset.id, above ? { after: above.dataset.id } : { before: below.dataset.id }));
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
    over[clientY < top + height / 2 ? "before" : "after"](row);
  };
  handle.onpointerup = handle.onpointercancel = ({ type }) => {
    handle.onpointermove = handle.onpointerup = handle.onpointercancel = null;
    row.classList.remove("moving");
    if (type === "pointercancel") list.insertBefore(row, before);
    else if (row.nextElementSibling !== before) moved(row);
  };
});

list.addEventListener("keydown", (event) => {
  if (!event.target.matches(".handle") || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const row = event.target.closest("li");
  const other = event.key === "ArrowUp" ? row.previousElementSibling : row.nextElementSibling;
  if (!other) return;
  other[event.key === "ArrowUp" ? "before" : "after"](row);
  event.target.focus(); // which moving the row has taken away
  moved(row);
});

// `#token=…` in the address signs in, and leaves the address at once: a fragment is never sent to any server.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", location.pathname);
  signIn(given);
} else {
  start();
}
addEventListener("online", sync);
addEventListener("offline", sync);
addEventListener("storage", ({ key, newValue }) => { // of another tab
  if (replica === null) return;
  if (key !== replica.key) render();
  else if (newValue === null) signOut(); // as the user did there
  else sync();
});
document.addEventListener("visibilitychange", () => document.hidden || sync());
setInterval(() => document.hidden || sync(), EVERY);

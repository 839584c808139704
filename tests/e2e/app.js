// A frontend without a framework: signs its users up with Better Auth, and keeps their tasks with the API.
import { createAuthClient } from "better-auth/client";
import { jwtClient } from "better-auth/client/plugins";
import { TasksClient, TasksError } from "../../backend/static/tasks.js";

// The requests that can change who is signed in.
const CHANGES_USER = /\w\/(sign-|verify|callback|delete-|revoke|set-active|impersonate|stop-impersonating)/;

const authClient = createAuthClient({
  plugins: [jwtClient()],
  fetchOptions: { onResponse: ({ request }) => void (CHANGES_USER.test(`${request.url}`) && leave()) },
});
const getToken = async () => {
  const { data, error } = await authClient.token();
  if (error && error.status !== 401) throw new Error(`Better Auth: ${error.status}`); // no response is not "signed out"
  return data?.token ?? null;
};
const tasks = new TasksClient(process.env.API_URL, getToken); // filled in by the bundler
const PAGE = 5;
let user; // who is signed in: an id, null for nobody, undefined where that is not known

const [error, main, list, more] = ["#error", "main", "#tasks", "#more"].map((name) => document.querySelector(name));

// Do something, and show what goes wrong.
async function attempt(action) {
  error.textContent = "";
  try {
    await action();
  } catch (problem) {
    if (problem.name === "AbortError") return; // asked for by a user who has left
    const where = problem instanceof TasksError && problem.errors.map(({ pointer, detail }) => `${pointer} ${detail}`).join(", ");
    error.textContent = `${where || problem.message} (${problem.code}, ${problem.requestId})`;
  }
}

function show(task) {
  const item = document.createElement("li");
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  const title = document.createElement("span");
  const remove = Object.assign(document.createElement("button"), { textContent: "Delete" });
  const update = ({ title: text, completed }) => {
    title.textContent = text; // as text: a title may hold anything
    box.checked = completed;
    item.classList.toggle("completed", completed);
  };
  box.addEventListener("change", () => attempt(async () => update(await tasks.toggle(task.id))));
  remove.addEventListener("click", () =>
    attempt(async () => {
      await tasks.delete(task.id);
      item.remove();
    }),
  );
  update(task);
  item.append(box, title, remove);
  return item;
}

async function load(cursor) {
  const page = await tasks.list({ limit: PAGE, ...(cursor && { cursor }) });
  list.append(...page.tasks.map(show));
  more.hidden = page.next === null;
  more.onclick = () => attempt(() => load(page.next));
}

// Somebody has signed in or out: nothing of whoever was here before may stay.
function leave() {
  tasks.forget();
  list.replaceChildren();
  main.hidden = more.hidden = true;
  user = undefined;
}

// Better Auth tells who is signed in: at the start, and after every change, in another tab too.
authClient.useSession.listen(({ data, error, isPending }) => {
  const id = data?.user.id ?? null;
  if (isPending || error || id === user) return;
  leave();
  tasks.expect(id);
  user = id;
  document.querySelector("#sign-up").hidden = id !== null;
  if (id === null) return;
  attempt(async () => {
    await load();
    main.hidden = false;
  });
});

document.querySelector("#sign-up").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const { error } = await authClient.signUp.email(Object.fromEntries(new FormData(event.target)));
    if (error) throw error;
  });
});

document.querySelector("#sign-out").addEventListener("click", () => attempt(() => authClient.signOut()));

document.querySelector("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    list.prepend(show(await tasks.create({ title: event.target.title.value })));
    event.target.reset();
  });
});

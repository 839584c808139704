// A frontend without a framework: signs its user up with Better Auth, and keeps the user's tasks with the API.
import { createAuthClient } from "better-auth/client";
import { jwtClient } from "better-auth/client/plugins";

const API = process.env.API_URL; // filled in by the bundler
const PAGE = 5;

const authClient = createAuthClient({ plugins: [jwtClient()] });
let token;

// Call the API. The token is good for a few minutes: after a 401 a new one may help, once.
async function api(path, { method = "GET", body } = {}) {
  const send = () =>
    fetch(new URL(path, API), {
      method,
      headers: {
        Authorization: `Bearer ${token}`,
        ...(body !== undefined && { "Content-Type": "application/json" }),
      },
      body: JSON.stringify(body),
    });
  token ??= (await authClient.token()).data?.token;
  let response = await send();
  if (response.status === 401) {
    token = (await authClient.token()).data?.token;
    response = await send();
  }
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.detail), answer);
  return { answer, next: response.headers.get("Link")?.match(/<([^>]*)>; rel="next"/)?.[1] };
}

const [error, main, list, more] = ["#error", "main", "#tasks", "#more"].map((name) => document.querySelector(name));

// Do something, and show what goes wrong.
async function attempt(action) {
  error.textContent = "";
  try {
    await action();
  } catch (problem) {
    const where = problem.errors?.map(({ pointer, detail }) => `${pointer} ${detail}`).join(", ");
    error.textContent = `${where ?? problem.message} (${problem.code}, ${problem.request_id})`;
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
  box.addEventListener("change", () =>
    attempt(async () => update((await api(`/api/tasks/${task.id}/toggle`, { method: "POST" })).answer)),
  );
  remove.addEventListener("click", () =>
    attempt(async () => {
      await api(`/api/tasks/${task.id}`, { method: "DELETE" });
      item.remove();
    }),
  );
  update(task);
  item.append(box, title, remove);
  return item;
}

async function load(path) {
  const { answer, next } = await api(path);
  list.append(...answer.map(show));
  more.hidden = !next;
  more.onclick = () => attempt(() => load(next));
}

document.querySelector("#sign-up").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const { error } = await authClient.signUp.email(Object.fromEntries(new FormData(event.target)));
    if (error) throw error;
    event.target.hidden = true;
    main.hidden = false;
    await load(`/api/tasks?limit=${PAGE}`);
  });
});

document.querySelector("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const { answer } = await api("/api/tasks", { method: "POST", body: { title: event.target.title.value } });
    list.prepend(show(answer));
    event.target.reset();
  });
});

// Whoever has signed up before is still signed in.
const { data: session } = await authClient.getSession();
if (session) {
  document.querySelector("#sign-up").hidden = true;
  main.hidden = false;
  await attempt(() => load(`/api/tasks?limit=${PAGE}`));
}

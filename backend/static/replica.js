// A copy of a user's tasks that can be read and changed offline: what the service last said, and a queue of changes that
// it has not heard yet. What is shown is the one with the other laid over it, so a change that is refused needs no undoing:
// it leaves the queue, and the service's word shows again.
import { TasksError, uuid7 } from "./tasks.js";

const BLANK = {
  description: null, completed: false, priority: null, due_date: null, due_time: null, remind_at: null, tags: [], recurrence: null,
};
const MAX_BATCH = 100;
const DIGITS = 12;
/** Problems of changes that may be taken another time: when there is room, or the service itself responds. */
const NOT_YET = new Set(["too_many_tasks", "not_the_api"]);
/** Until the service has given a new task its place, it stands before all that have one. */
const FIRST = -(2 ** 52);

export class Replica {
  #client;
  #waiting;
  #prefix;
  #known = new Map();
  #checkpoint = null;
  #syncing = null;
  /** Changes that were refused, each with its `problem`, until somebody takes them out. */
  refused = [];

  /** The copy of the client's tasks in this browser, for one user: no key is shared with another. */
  constructor(client, user) {
    this.#client = client;
    this.#waiting = { signal: client.ended }; // what is sent later would be sent as the next user's
    this.#prefix = `tasks/${encodeURIComponent(user)}/`;
    if (localStorage.getItem(this.key) === null) this.#store(this.key, {}); // when it goes, other tabs hear that
    this.load();
  }

  /** Take over the copy as another tab has left it. */
  load() {
    const { tasks, checkpoint } = read(this.key) ?? {};
    if (!checkpoint) return; // there is none, or it cannot be read: everything is fetched
    this.#known = new Map(tasks.map((task) => [task.id, task]));
    this.#checkpoint = checkpoint;
  }

  /** What the copy is called in localStorage, where it is until the user signs out. */
  get key() {
    return `${this.#prefix}copy`;
  }

  get #changes() {
    return `${this.#prefix}change/`;
  }

  /** All tasks as the user means them to be. */
  get tasks() {
    const tasks = new Map(this.#known);
    for (const [, operation] of this.#queue()) apply(tasks, operation);
    return [...tasks.values()];
  }

  /** How many changes the service has not heard yet. */
  get waiting() {
    return this.#queue().length;
  }

  /** Create a task. It has its id at once, so that it can be changed before the service has heard of it. */
  add(task) {
    const first = Math.min(FIRST, ...this.tasks.map(({ position }) => position));
    const now = new Date().toISOString();
    this.#enqueue({ op: "put", id: uuid7(), task, local: { position: first - 1, created_at: now } });
  }

  change(id, task) {
    this.#enqueue({ op: "patch", id, task });
  }

  delete(id) {
    this.#enqueue({ op: "delete", id });
  }

  /** Take back a deletion. */
  restore(task) {
    this.#enqueue({ op: "restore", id: task.id, local: task });
  }

  /** Move a task to stand `{ before: id }` or `{ after: id }` in the manual order. */
  move(id, to) {
    const order = this.tasks.filter((task) => task.id !== id).sort(byPosition);
    const next = order.findIndex((task) => task.id === (to.before ?? to.after)) + (to.after ? 1 : 0);
    const [above, below] = [order[next - 1]?.position, order[next]?.position];
    const position = ((above ?? below - 2) + (below ?? above + 2)) / 2; // until the service says which it is
    this.#enqueue({ op: "move", id, to, local: { position } });
  }

  /** Send what waits, then fetch what has changed. Rejects, with all else done, where a change must wait longer. */
  sync() {
    this.#syncing ??= this.#alone(() => this.#sync()).finally(() => (this.#syncing = null));
    return this.#syncing;
  }

  /** Forget the copy. Changes that wait stay, under the user's name, and are sent when the user is back. */
  erase() {
    localStorage.removeItem(this.key);
  }

  /** Do it when no other tab does: a change that two of them sent could arrive again after those that followed it. */
  #alone(action) {
    return navigator.locks?.request(this.#prefix, this.#waiting, action) ?? action();
  }

  async #sync() {
    this.load();
    const held = new Map(); // the tasks whose changes must wait, and why
    do await this.#exchange(held);
    while (this.#ready(held).length > 0); // what was changed meanwhile
    for (const problem of held.values()) throw new TasksError(problem);
  }

  async #exchange(held) {
    for (let queue; (queue = this.#ready(held)).length > 0; ) {
      const end = queue.findIndex(([, { op }]) => op === "move");
      const sent = end === 0 ? queue.slice(0, 1) : queue.slice(0, Math.min(end < 0 ? Infinity : end, MAX_BATCH));
      const operations = sent.map(([, { op, id, task }]) => ({ op, id, task }));
      const results = end === 0 ? [await this.#move(sent[0][1])] : await this.#client.push(operations, this.#waiting);
      this.#take(sent, results, held);
    }
    const { changes, checkpoint, anew } = await this.#client.changes(this.#checkpoint, 500, this.#waiting);
    if (checkpoint === this.#checkpoint) return;
    if (anew || this.#checkpoint === null) this.#known.clear(); // what was pushed may have been deleted since
    this.#checkpoint = checkpoint;
    for (const change of changes) change.deleted ? this.#known.delete(change.id) : this.#known.set(change.id, change);
    this.#save();
  }

  /** Take over what the service says of changes, which then leave the queue, or are held. */
  #take(sent, results, held) {
    const last = new Map(this.#queue().map(([, { op, id }]) => [id, op]));
    const done = sent.filter(([, { op, id, ...change }], at) => {
      const { task, problem } = results[at];
      const matters = problem && (op === "delete" || last.get(id) !== "delete"); // unless the task is deleted next
      if (matters && NOT_YET.has(problem.code)) held.set(id, problem);
      if (held.has(id)) return false; // with all that follows: their order must stay
      if (task) this.#known.set(id, task);
      else if (!problem) this.#known.delete(id);
      if (matters) this.refused.push({ op, id, ...change, problem });
      return true;
    });
    this.#save();
    for (const [key] of done) localStorage.removeItem(key);
  }

  /** A move has a route of its own; its result is put into the form of a batch's. */
  async #move({ id, to }) {
    try {
      return { id, task: await this.#client.move(id, to) };
    } catch (error) {
      if (!error.isFinal) throw error;
      return { id, problem: error };
    }
  }

  /** The changes that wait, oldest first, each under a key of its own: so two tabs never overwrite each other's. */
  #queue() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.#changes))
      .sort()
      .map((key) => [key, read(key)])
      .filter(([, operation]) => operation);
  }

  /** Without the changes of tasks that are held, and moves that go by one of them. */
  #ready(held) {
    return this.#queue().filter(([, { id, to }]) => ![id, to?.before, to?.after].some((task) => held.has(task)));
  }

  /** Add a change under the next number (a clock can be set back), and an id: two tabs may take the same number. */
  #enqueue(operation) {
    const [last = ""] = this.#queue().at(-1) ?? [];
    const number = Number(last.slice(this.#changes.length).slice(0, DIGITS)) + 1;
    this.#store(`${this.#changes}${String(number).padStart(DIGITS, "0")}-${uuid7()}`, operation);
  }

  #save() {
    this.#store(this.key, { tasks: [...this.#known.values()], checkpoint: this.#checkpoint });
  }

  /** Where there is no room, the copy goes: the next visit fetches it again. Throws where a change has none even then. */
  #store(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      if (localStorage.getItem(this.key) !== null) localStorage.setItem(this.key, "{}");
      if (key !== this.key) localStorage.setItem(key, JSON.stringify(value));
    }
  }
}

/** What is stored under a key; null where that is nothing, or damaged. */
function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** The manual order. */
export function byPosition(one, other) {
  return one.position - other.position || (one.id < other.id ? -1 : 1);
}

function apply(tasks, { op, id, task, local }) {
  const known = tasks.get(id);
  if (op === "delete") tasks.delete(id);
  else if (op === "put" || op === "restore") tasks.set(id, { ...BLANK, ...local, ...task, id });
  else if (known) tasks.set(id, { ...known, ...local, ...task });
}

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
  #changes;
  #refusals;
  #known = new Map();
  #checkpoint = null;
  #syncing = null;
  /** What the copy is called in localStorage, where it is until the user signs out. */
  key;

  /** The copy of the client's tasks in this browser, for one user: no key is shared with another. */
  constructor(client, user) {
    this.#client = client;
    this.#waiting = { signal: client.ended }; // what is sent later would be sent as the next user's
    const prefix = `tasks/${encodeURIComponent(user)}/`;
    [this.key, this.#changes, this.#refusals] = ["copy", "change/", "refused/"].map((name) => prefix + name);
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

  /** All tasks as the user means them to be. */
  get tasks() {
    const tasks = new Map(this.#known);
    for (const [, operation] of this.#stored(this.#changes)) apply(tasks, operation);
    return [...tasks.values()];
  }

  /** How many changes the service has not heard yet. */
  get waiting() {
    return this.#stored(this.#changes).length;
  }

  /** What was refused, whichever tab has sent it: `{ op, id, title, problem }` of each change, until they are dismissed. */
  get refused() {
    return this.#stored(this.#refusals).map(([, refusal]) => refusal);
  }

  dismiss() {
    for (const [key] of this.#stored(this.#refusals)) localStorage.removeItem(key);
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
    this.dismiss();
    localStorage.removeItem(this.key);
  }

  /** Do it when no other tab does: a change that two of them sent could arrive again after those that followed it. */
  #alone(action) {
    return navigator.locks?.request(this.#changes, this.#waiting, action) ?? action();
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
      const results = [];
      try {
        if (end === 0) results.push(await this.#move(sent[0][1]));
        else await this.#client.push(sent.map(([, change]) => operationOf(change)), this.#waiting, results);
      } finally { // those that were sent one by one before the network was lost are done; after signing out nothing is kept
        if (results.length > 0 && !this.#waiting.signal.aborted) this.#take(sent.slice(0, results.length), results, held);
      }
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
    const last = new Map(this.#stored(this.#changes).map(([, { op, id }]) => [id, op]));
    const [tasks, refused] = [new Map([...this.#known.values(), ...this.tasks].map((task) => [task.id, task])), []];
    const done = sent.filter(([, { op, id, task: change }], at) => {
      const { problem: refusal, task = refusal?.current } = results[at];
      const problem = task ? null : refusal; // a new task that is there was made by an attempt before
      const matters = problem && (op === "delete" || last.get(id) !== "delete"); // unless the task is deleted next
      if (matters && NOT_YET.has(problem.code)) held.set(id, problem);
      if (held.has(id)) return false; // with all that follows: their order must stay
      if (task) this.#known.set(id, task);
      else if (!problem) this.#known.delete(id);
      if (matters) refused.push({ op, id, title: change?.title ?? tasks.get(id)?.title, problem });
      return true;
    });
    this.#save();
    for (const [key] of done) localStorage.removeItem(key);
    for (const refusal of refused) this.#store(this.#refusals + uuid7(), refusal);
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

  /** What is stored under keys that begin so, oldest first. Each change has its own: two tabs overwrite none of each other's. */
  #stored(prefix) {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(prefix)).sort();
    return keys.map((key) => [key, read(key)]).filter(([, value]) => value);
  }

  /** The changes that wait, without those of tasks that are held, and moves that go by one of them. */
  #ready(held) {
    return this.#stored(this.#changes).filter(([, { id, to }]) => ![id, to?.before, to?.after].some((task) => held.has(task)));
  }

  /** Add a change under the next number (a clock can be set back), and an id: two tabs may take the same number. */
  #enqueue(operation) {
    const [last = ""] = this.#stored(this.#changes).at(-1) ?? [];
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

/** A change as it is pushed. A new task is created only: sent again, it takes nothing back that another device has changed. */
function operationOf({ op, id, task }) {
  return op === "put" ? { op, id, task, if_none_match: "*" } : { op, id, task };
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

// What every generated client must be able to do, said once. Each has an adapter beside this file that says how.
import assert from "node:assert/strict";

export type Body = { title: string; description?: string | null; tags?: string[] };
export type Task = { id: string; title: string; description: string | null; completed: boolean; etag: string };
/** What came back: the task or tasks where it went well, else the problem. */
export type Outcome<T> = { status: number; data?: T | undefined; problem?: { code: string; detail: string } | undefined };

export interface Adapter {
  /** Have all that follows go to this service. */
  use(url: string): void;
  create(body: Body): Promise<Outcome<Task>>;
  /** Active tasks with all of these tags. */
  active(tag: string[]): Promise<Outcome<Task[]>>;
  /** All pages of two tasks, in whatever way the tool follows them. */
  pages(): Promise<Task[][]>;
  get(id: string): Promise<Outcome<Task>>;
  update(id: string, body: Partial<Body>, ifMatch?: string): Promise<Outcome<Task>>;
  toggle(id: string): Promise<Outcome<Task>>;
}

export const { TOKEN = "" } = process.env;
const { API_URL = "", WITHOUT_DATABASE_URL = "" } = process.env;

export async function check(adapter: Adapter): Promise<void> {
  adapter.use(WITHOUT_DATABASE_URL);
  const unavailable = await adapter.create({ title: "Buy milk" });
  assert.deepEqual([unavailable.status, unavailable.problem?.code], [503, "database_unavailable"]);
  adapter.use(API_URL);

  const tasks: Task[] = [];
  for (const number of [1, 2, 3, 4, 5]) {
    const { status, data } = await adapter.create({ title: `Task ${number}`, description: "To be cleared", tags: ["home", "shop"] });
    assert.equal(status, 201);
    tasks.push(data!);
  }
  const [first, second] = tasks as [Task, Task];

  assert.equal((await adapter.toggle(first.id)).data?.completed, true);
  const active = await adapter.active(["home", "shop"]);
  assert.deepEqual(active.data?.map(({ title }) => title), ["Task 5", "Task 4", "Task 3", "Task 2"]);

  const pages = await adapter.pages();
  const titles = pages.map((page) => page.map(({ title }) => title));
  assert.deepEqual(titles, [["Task 5", "Task 4"], ["Task 3", "Task 2"], ["Task 1"]]);

  const cleared = await adapter.update(second.id, { description: null });
  assert.deepEqual([cleared.status, cleared.data?.description, cleared.data?.title], [200, null, "Task 2"]);

  const absent = await adapter.get("0192f0c1-2345-7abc-8def-0123456789ab");
  assert.deepEqual([absent.status, absent.problem?.code], [404, "task_not_found"]);

  const late = await adapter.update(second.id, { title: "Too late" }, `"${second.etag}"`);
  assert.deepEqual([late.status, late.problem?.code], [412, "precondition_failed"]);

  const blank = await adapter.create({ title: " " });
  assert.deepEqual([blank.status, blank.problem?.code], [422, "validation_error"]);
}

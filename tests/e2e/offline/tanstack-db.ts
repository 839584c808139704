// A TanStack DB collection of a user's tasks. Changes show at once; they wait while the service cannot be reached, and are
// undone where it refuses them.
import { createCollection } from "@tanstack/db";
import { TasksError, type Operation, type Task, type TasksClient } from "../../../backend/static/tasks.ts";

export function tasksCollection(client: TasksClient, every = 10_000) {
  const pause = () => new Promise((resolve) => setTimeout(resolve, every));
  let turn: Promise<unknown> = Promise.resolve(); // one exchange with the service at a time, in the order of changes
  const inTurn = (work: () => Promise<void>) => (turn = turn.then(work, work)) as Promise<void>;
  let pull: () => Promise<void>;

  async function push(operations: Operation[]): Promise<void> {
    const send = () => client.batch(operations, { atomic: false });
    const results = await send().catch(async function again(error: unknown): Promise<Awaited<ReturnType<typeof send>>> {
      if (error instanceof TasksError && error.status < 500) throw error;
      return pause().then(send).catch(again);
    });
    await pull();
    const refused = results.find(({ status, problem }, at) => problem && !(status === 404 && operations[at]?.op === "delete"));
    if (refused?.problem) throw new TasksError(refused.problem);
  }

  return createCollection<Task, string>({
    id: "tasks",
    getKey: ({ id }) => id,
    sync: {
      sync({ begin, write, commit, truncate, markReady }) {
        const known = new Set<string>();
        let checkpoint: string | null = null;
        let stopped = false;
        pull = async () => {
          for await (const page of client.changes(checkpoint)) {
            begin();
            if (page.anew) truncate();
            if (page.anew) known.clear();
            for (const change of page.changes) {
              if (!("deleted" in change)) write({ type: known.has(change.id) ? "update" : "insert", value: change });
              else if (known.has(change.id)) write({ type: "delete", key: change.id });
              known["deleted" in change ? "delete" : "add"](change.id);
            }
            commit();
            checkpoint = page.checkpoint;
          }
          markReady();
        };
        void (async () => {
          for (; !stopped; await pause()) await inTurn(pull).catch(() => undefined); // offline: the next time, then
        })();
        return () => void (stopped = true);
      },
    },
    onInsert: ({ transaction }) =>
      inTurn(() => push(transaction.mutations.map(({ key, modified }) => ({ op: "put", id: key, task: modified })))),
    onUpdate: ({ transaction }) =>
      inTurn(() => push(transaction.mutations.map(({ key, changes }) => ({ op: "patch", id: key, task: changes })))),
    onDelete: ({ transaction }) => inTurn(() => push(transaction.mutations.map(({ key }) => ({ op: "delete", id: key })))),
  });
}

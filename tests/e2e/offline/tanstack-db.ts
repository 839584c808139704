// A TanStack DB collection of a user's tasks. Changes show at once; they wait while the service cannot be reached, and are
// undone where it refuses them, or where the user signs out.
import { createCollection, type MutationFn } from "@tanstack/db";
import { TasksError, type Operation, type Result, type Task, type TasksClient } from "../../../backend/static/tasks.ts";

export function tasksCollection(client: TasksClient, every = 10_000) {
  const { ended } = client; // whatever is sent later is sent as the next user
  const pause = () => new Promise((resolve) => setTimeout(resolve, every));
  let pull: () => Promise<void>;
  let turn: Promise<Result[]> = Promise.resolve([]);

  // One at a time, in the order of changes, and again until the service is reached.
  const exchange = (operations: Operation[]) =>
    (turn = turn.then(async function attempt(): Promise<Result[]> {
      ended.throwIfAborted();
      try {
        const results = operations.length > 0 ? await client.push(operations) : [];
        await pull();
        return results;
      } catch {
        return pause().then(attempt);
      }
    }));

  const push: MutationFn<Task> = async ({ transaction: { mutations } }) => {
    const operations = mutations.map(({ type, key: id, changes: task }): Operation =>
      type === "delete" ? { op: "delete", id } : { op: type === "insert" ? "put" : "patch", id, task },
    );
    for (const { problem } of await exchange(operations)) if (problem) throw new TasksError(problem);
  };

  return createCollection<Task, string>({
    id: "tasks",
    getKey: ({ id }) => id,
    onInsert: push,
    onUpdate: push,
    onDelete: push,
    sync: {
      sync({ begin, write, commit, truncate, markReady }) {
        let [checkpoint, stopped]: [string | null, boolean] = [null, false];
        pull = async () => {
          ended.throwIfAborted();
          const { changes, anew, ...page } = await client.changes(checkpoint);
          begin();
          if (anew) truncate();
          for (const task of changes) write("deleted" in task ? { type: "delete", key: task.id } : { type: "update", value: task });
          commit();
          checkpoint = page.checkpoint;
          markReady();
        };
        void (async () => {
          for (; !stopped; await pause()) await exchange([]);
        })().catch(() => undefined);
        return () => void (stopped = true);
      },
    },
  });
}

// An RxDB collection of a user's tasks, replicated both ways. What two clients have changed in one task is merged field by
// field: only the fields that differ from what was replicated before are sent. A task that was deleted elsewhere is gone.
// `onRefused` gets what the service refuses; the task is then what it is there. A new one at the limit of tasks stays, and
// is sent again until there is room for it.
import { createRxDatabase, defaultConflictHandler, promiseWait } from "rxdb";
import type { RxConflictHandler, RxJsonSchema, RxStorage, WithDeleted } from "rxdb";
import { replicateRxCollection } from "rxdb/plugins/replication";
import { operationOf, TasksError, type ProblemDocument, type Task, type TasksClient } from "../../../backend/static/tasks.ts";

const FIELDS =
  "title description completed priority due_date due_time remind_at tags recurrence position completed_at created_at updated_at etag";
const properties = { id: { type: "string", maxLength: 36 }, ...Object.fromEntries(FIELDS.split(" ").map((name) => [name, {}])) };
const schema = { version: 0, primaryKey: "id", type: "object", properties } as RxJsonSchema<Task>;

type State = Task & { deleted?: boolean };
type OnRefused = (problem: ProblemDocument, task: State) => void;

export async function tasksDatabase(
  client: TasksClient, name: string, storage: RxStorage<unknown, unknown>, onRefused: OnRefused, retryTime = 5000,
) {
  const { ended } = client;
  const staying = new Set<string>(); // tasks for which there was no room
  const conflictHandler: RxConflictHandler<Task> = {
    ...defaultConflictHandler,
    resolve: async ({ newDocumentState: now, realMasterState: there }) => (staying.delete(now.id) ? now : there),
  };
  const stored = (task: State): Promise<State> =>
    client.get(task.id, ended).catch((error: unknown) => {
      if (error instanceof TasksError && error.code === "task_not_found") return { ...task, deleted: true };
      throw error;
    });
  const database = await createRxDatabase({ name, storage }); // a name for each user: what waits is sent as the client's
  const { tasks } = await database.addCollections({ tasks: { schema, conflictHandler } });
  const replication = replicateRxCollection<Task, { since: string }>({
    collection: tasks,
    replicationIdentifier: "tasks-api",
    deletedField: "deleted",
    retryTime,
    pull: {
      async handler(last) {
        const { changes, checkpoint, anew } = await client.changes(last?.since);
        // RxDB keeps no checkpoint of a page without changes, and reads everything again: then what is not in it is gone.
        const gone = anew || !last ? (await tasks.find().exec()).map(({ id }) => ({ id, deleted: true as const })) : [];
        return { documents: [...gone, ...changes] as WithDeleted<Task>[], checkpoint: { since: checkpoint } };
      },
    },
    push: {
      async handler(rows) {
        const changes = rows.map((row) => [row.newDocumentState, row.assumedMasterState] as [State, State?]);
        if (changes.some(([, before]) => before?.deleted)) await promiseWait(retryTime); // there was no room for it
        const operations = changes.map(([now, before]) => operationOf(now, before?.deleted ? undefined : before));
        const results = await client.push(operations, { signal: ended });
        const conflicts: State[] = [];
        for (const [at, { problem }] of results.entries()) {
          if (!problem) continue;
          const [now, before] = changes[at]!;
          const hasRoom = problem.code !== "too_many_tasks";
          conflicts.push(hasRoom ? await stored(now) : { ...now, deleted: true });
          if (!hasRoom) staying.add(now.id);
          if (hasRoom || !before) onRefused(problem, now); // what stays is told once
        }
        return conflicts as WithDeleted<Task>[];
      },
    },
  });
  ended.addEventListener("abort", () => void replication.cancel());
  return { database, tasks, replication }; // `replication.reSync()` pulls: call it now and then, and when online again
}

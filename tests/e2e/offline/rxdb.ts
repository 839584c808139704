// An RxDB collection of a user's tasks, replicated both ways. What two clients have changed in one task is merged field by
// field: only the fields that differ from what was replicated before are sent. A task that was deleted elsewhere is gone.
import { createRxDatabase, type RxJsonSchema, type RxStorage, type WithDeleted } from "rxdb";
import { replicateRxCollection } from "rxdb/plugins/replication";
import type { Operation, Task, TasksClient } from "../../../backend/static/tasks.ts";

const FIELDS = "title description completed priority due_date due_time remind_at tags recurrence position".split(" ");
const READ_ONLY = ["completed_at", "created_at", "updated_at", "etag"];
const ANY = Object.fromEntries([...FIELDS, ...READ_ONLY].map((name) => [name, {}]));
const schema = { version: 0, primaryKey: "id", type: "object", properties: { id: { type: "string", maxLength: 36 }, ...ANY } };

type Replicated = Task & { deleted: boolean };

export async function tasksDatabase(client: TasksClient, name: string, storage: RxStorage<unknown, unknown>, retryTime = 5000) {
  const database = await createRxDatabase({ name, storage });
  const { tasks } = await database.addCollections({ tasks: { schema: schema as unknown as RxJsonSchema<Task> } });

  const replication = replicateRxCollection<Task, { since: string | null }>({
    collection: tasks,
    replicationIdentifier: "tasks-api",
    deletedField: "deleted",
    retryTime,
    pull: {
      async handler(last) {
        const changed = new Map<string, Replicated>();
        let since = last?.since ?? null;
        for await (const page of client.changes(since)) {
          const gone = page.anew ? await tasks.find().exec() : [];
          for (const task of gone) changed.set(task.id, { ...task.toMutableJSON(), deleted: true });
          for (const change of page.changes) changed.set(change.id, { deleted: false, ...change } as Replicated);
          since = page.checkpoint;
        }
        return { documents: [...changed.values()] as unknown as WithDeleted<Task>[], checkpoint: { since } };
      },
    },
    push: {
      async handler(rows) {
        const states = rows.map((row) => [row.newDocumentState, row.assumedMasterState] as unknown as [Replicated, Replicated?]);
        const results = await client.batch(states.map(([now, before]) => operation(now, before)), { atomic: false });
        return results.flatMap(({ status, problem }, at) => {
          const [now, before] = states[at]!;
          if (!problem || (now.deleted && status === 404)) return [];
          const current = status === 404 || status === 410 || !before ? { ...now, deleted: true } : before;
          return [current as unknown as WithDeleted<Task>];
        });
      },
    },
  });
  return { database, tasks, replication }; // `replication.reSync()` pulls: call it now and then, and when online again
}

function operation(now: Replicated, before?: Replicated): Operation {
  if (now.deleted) return { op: "delete", id: now.id };
  const differs = (name: string) => JSON.stringify(now[name as keyof Task]) !== JSON.stringify(before?.[name as keyof Task]);
  const task = Object.fromEntries(FIELDS.filter(differs).map((name) => [name, now[name as keyof Task]]));
  return { op: before ? "patch" : "put", id: now.id, task };
}

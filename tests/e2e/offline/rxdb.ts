// An RxDB collection of a user's tasks, replicated both ways. What two clients have changed in one task is merged field by
// field: only the fields that differ from what was replicated before are sent. A task that was deleted elsewhere is gone.
import { createRxDatabase, type RxJsonSchema, type RxStorage, type WithDeleted } from "rxdb";
import { replicateRxCollection } from "rxdb/plugins/replication";
import { operationOf, type Task, type TasksClient } from "../../../backend/static/tasks.ts";

const FIELDS =
  "title description completed priority due_date due_time remind_at tags recurrence position completed_at created_at updated_at etag";
const properties = { id: { type: "string", maxLength: 36 }, ...Object.fromEntries(FIELDS.split(" ").map((name) => [name, {}])) };
const schema = { version: 0, primaryKey: "id", type: "object", properties } as RxJsonSchema<Task>;

export async function tasksDatabase(client: TasksClient, name: string, storage: RxStorage<unknown, unknown>, retryTime = 5000) {
  const database = await createRxDatabase({ name, storage }); // a name for each user: what waits is sent as the client's
  const { tasks } = await database.addCollections({ tasks: { schema } });
  const replication = replicateRxCollection<Task, { since: string }>({
    collection: tasks,
    replicationIdentifier: "tasks-api",
    deletedField: "deleted",
    retryTime,
    pull: {
      async handler(last) {
        const { changes, checkpoint, anew } = await client.changes(last?.since);
        const gone = anew ? (await tasks.find().exec()).map(({ id }) => ({ id, deleted: true as const })) : [];
        return { documents: [...gone, ...changes] as WithDeleted<Task>[], checkpoint: { since: checkpoint } };
      },
    },
    push: {
      async handler(rows) {
        const results = await client.push(rows.map((row) => operationOf(row.newDocumentState, row.assumedMasterState)));
        return rows.flatMap(({ newDocumentState: now, assumedMasterState: before }, at) => {
          const status = results[at]?.problem?.status;
          if (status === undefined) return [];
          return before && ![404, 410].includes(status) ? [before] : [{ ...now, deleted: true }]; // as it is there
        });
      },
    },
  });
  client.ended.addEventListener("abort", () => void replication.cancel());
  return { database, tasks, replication }; // `replication.reSync()` pulls: call it now and then, and when online again
}

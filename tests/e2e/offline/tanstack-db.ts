// A TanStack DB collection of a user's tasks. Changes show at once; they wait while the service cannot be reached, and are
// undone where it refuses them, or where the user signs out. `onError` gets what ends the following, such as a bad token.
import { createCollection, type MutationFn } from "@tanstack/db";
import { TasksError, type Follower, type Operation, type Task, type TasksClient } from "../../../backend/static/tasks.ts";

export function tasksCollection(client: TasksClient, onError: (error: unknown) => void, every = 10_000) {
  let follower: Follower;
  const push: MutationFn<Task> = async ({ transaction: { mutations } }) => {
    const operations = mutations.map(({ type, key: id, changes: task }): Operation =>
      type === "delete" ? { op: "delete", id } : { op: type === "insert" ? "put" : "patch", id, task },
    );
    for (const { problem } of await follower.exchange(operations)) if (problem) throw new TasksError(problem);
  };
  return createCollection<Task, string>({
    id: "tasks",
    getKey: ({ id }) => id,
    gcTime: 0, // a collection that nobody looks at may have changes that wait
    onInsert: push,
    onUpdate: push,
    onDelete: push,
    sync: {
      sync({ collection, begin, write, commit, truncate, markReady }) {
        client.ended.addEventListener("abort", () => void collection.cleanup()); // nothing of the user may stay
        follower = client.follow(({ changes, anew }) => {
          begin();
          if (anew) truncate();
          for (const task of changes) write("deleted" in task ? { type: "delete", key: task.id } : { type: "update", value: task });
          commit();
          markReady();
        }, onError, every);
        return () => follower.stop();
      },
    },
  });
}

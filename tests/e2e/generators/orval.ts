import { QueryClient, infiniteQueryOptions } from "@tanstack/react-query";
import { check, type Outcome } from "./checks.ts";
import { use } from "./http.ts";
import { createTask, getTask, listTasks, toggleTask, updateTask } from "./orval/fetch.ts";
import { getGetTaskQueryOptions } from "./orval/query.ts";
import { CreateTaskBody, GetTaskResponse } from "./orval/zod.ts";

type Result = { status: number; data: unknown };
type Good<R extends Result> = Extract<R, { status: 200 | 201 }>["data"];

function outcome<R extends Result>({ status, data }: R): Outcome<Good<R>> {
  return status < 400 ? { status, data: data as Good<R> } : { status, problem: data as { code: string; detail: string } };
}

const allTasks = infiniteQueryOptions({
  queryKey: ["tasks"],
  queryFn: async ({ pageParam, signal }) => listTasks({ limit: 2, ...(pageParam && { cursor: pageParam }) }, { signal }),
  initialPageParam: null as string | null,
  getNextPageParam: (page) => page.headers.get("X-Next-Cursor"),
});

const queries = new QueryClient();
await check({
  use,
  create: async (body) => outcome(await createTask(body)),
  active: async (tag) => outcome(await listTasks({ completed: false, tag })),
  pages: async () => (await queries.fetchInfiniteQuery({ ...allTasks, pages: 10 })).pages.map((page) => outcome(page).data ?? []),
  get: async (id) => outcome(await getTask(id)),
  update: async (id, body, ifMatch) => outcome(await updateTask(id, body, ifMatch ? { headers: { "If-Match": ifMatch } } : {})),
  toggle: async (id) => outcome(await toggleTask(id)),
});

const created = outcome(await createTask(CreateTaskBody.parse({ title: "Buy milk" }))).data!;
GetTaskResponse.parse((await queries.fetchQuery(getGetTaskQueryOptions(created.id))).data);
if (CreateTaskBody.safeParse({ title: " " }).success) throw new Error("the schema takes a blank title");

import { QueryClient, infiniteQueryOptions } from "@tanstack/react-query";
import { TOKEN, check } from "./checks.ts";
import { createTaskMutation, getTaskOptions, listTasksInfiniteQueryKey } from "./hey-api/@tanstack/react-query.gen.ts";
import { client } from "./hey-api/client.gen.ts";
import { createTask, getTask, listTasks, toggleTask, updateTask } from "./hey-api/sdk.gen.ts";
import { zTaskCreate, zTaskPublic } from "./hey-api/zod.gen.ts";

type Result<T> = { data?: T; error?: { code: string; detail: string } | undefined; response?: Response | undefined };

function outcome<T>({ data, error, response }: Result<T>) {
  return { status: response?.status ?? 0, data, problem: error };
}

/** The generated infinite options see the body alone; where the next page begins is in a header. */
const allTasks = infiniteQueryOptions({
  queryKey: listTasksInfiniteQueryKey({ query: { limit: 2 } }),
  queryFn: async ({ pageParam, signal }) => {
    const query = { limit: 2, ...(pageParam && { cursor: pageParam }) };
    const { data, response } = await listTasks({ query, signal, throwOnError: true });
    return { tasks: data, next: response.headers.get("X-Next-Cursor") };
  },
  initialPageParam: null as string | null,
  getNextPageParam: (page) => page.next,
});

const queries = new QueryClient();
await check({
  use: (baseUrl) => void client.setConfig({ baseUrl, auth: () => TOKEN }),
  create: async (body) => outcome(await createTask({ body })),
  active: async (tag) => outcome(await listTasks({ query: { completed: false, tag } })),
  pages: async () => (await queries.fetchInfiniteQuery({ ...allTasks, pages: 10 })).pages.map(({ tasks }) => tasks),
  get: async (id) => outcome(await getTask({ path: { id } })),
  update: async (id, body, ifMatch) =>
    outcome(await updateTask({ path: { id }, body, ...(ifMatch && { headers: { "If-Match": ifMatch } }) })),
  toggle: async (id) => outcome(await toggleTask({ path: { id } })),
});

// The generated options and schemas are of use as they are.
const created = await createTaskMutation().mutationFn!({ body: zTaskCreate.parse({ title: "Buy milk" }) }, {} as never);
zTaskPublic.parse(await queries.fetchQuery(getTaskOptions({ path: { id: created.id } })));
if (zTaskCreate.safeParse({ title: " " }).success) throw new Error("the schema takes a blank title");

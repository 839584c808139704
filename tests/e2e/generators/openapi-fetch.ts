import createClient from "openapi-fetch";
import { TOKEN, check, type Task } from "./checks.ts";
import type { paths } from "./openapi-typescript/schema.d.ts";

const clientOf = (baseUrl: string) => createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${TOKEN}` } });
let api: ReturnType<typeof clientOf>;

type Result<T> = { data?: T; error?: { code: string; detail: string }; response: Response };

function outcome<T>({ data, error, response }: Result<T>) {
  return { status: response.status, data, problem: error };
}

await check({
  use: (url) => void (api = clientOf(url)),
  create: async (body) => outcome(await api.POST("/api/tasks", { body })),
  active: async (tag) => outcome(await api.GET("/api/tasks", { params: { query: { completed: false, tag } } })),
  async pages() {
    const pages: Task[][] = [];
    let cursor: string | undefined;
    do {
      const { data = [], response } = await api.GET("/api/tasks", { params: { query: { limit: 2, ...(cursor && { cursor }) } } });
      pages.push(data);
      cursor = response.headers.get("X-Next-Cursor") ?? undefined;
    } while (cursor);
    return pages;
  },
  get: async (id) => outcome(await api.GET("/api/tasks/{id}", { params: { path: { id } } })),
  update: async (id, body, ifMatch) =>
    outcome(await api.PATCH("/api/tasks/{id}", { params: { path: { id } }, body, headers: { "If-Match": ifMatch } })),
  toggle: async (id) => outcome(await api.POST("/api/tasks/{id}/toggle", { params: { path: { id } } })),
});

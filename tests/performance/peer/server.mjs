// The peer: what a team that does not want Python would write, as the manuals of Fastify and postgres.js have it.
// JSON schemas for what comes and what goes, one statement for each request, @fastify/jwt, a pool.

import jwt from "@fastify/jwt";
import fastify from "fastify";
import { randomUUID } from "node:crypto";
import postgres from "postgres";

const sql = postgres(process.env.FLOOR_DATABASE_URL, {
  max: Number(process.env.DATABASE_POOL_SIZE),
  ssl: "require",
  types: { number: { to: 20, from: [20], parse: Number, serialize: String } }, // bigint, which fits here
});

const text = { type: "string", nullable: true };
const time = { type: "string", format: "date-time" };
const written = {
  title: { type: "string", minLength: 1, maxLength: 200 },
  description: { ...text, maxLength: 2000 },
  completed: { type: "boolean" },
};
const task = {
  type: "object",
  properties: {
    id: { type: "string" }, title: { type: "string" }, description: text, completed: { type: "boolean" },
    priority: text, due_date: text, due_time: text, remind_at: text,
    tags: { type: "array", items: { type: "string" } }, recurrence: text, position: { type: "integer" },
    completed_at: { ...time, nullable: true }, etag: { type: "string" }, created_at: time, updated_at: time,
  },
};
const columns = sql`id, title, description, completed, priority, due_date, due_time, remind_at, tags, recurrence,
  position, completed_at, revision, created_at, updated_at`;
const shown = ({ revision, ...row }) => ({ ...row, tags: JSON.parse(row.tags), etag: String(revision) });

const app = fastify();
await app.register(jwt, { secret: process.env.BETTER_AUTH_SECRET });

app.get("/health", async () => ({ status: "ok" }));

app.register(async (api) => {
  api.addHook("onRequest", (request) => request.jwtVerify());

  const one = async (reply, [row]) => row ? shown(row) : reply.code(404).send({ message: "Task not found" });
  const params = { type: "object", properties: { id: { type: "string", format: "uuid" } } };

  const querystring = {
    type: "object",
    properties: { limit: { type: "integer", minimum: 1, maximum: 500, default: 100 } },
  };
  api.get("/", { schema: { querystring, response: { 200: { type: "array", items: task } } } }, async ({ user, query }) =>
    (await sql`SELECT ${columns} FROM tasks WHERE user_id = ${user.sub} ORDER BY id DESC LIMIT ${query.limit}`).map(shown));

  const body = { type: "object", required: ["title"], properties: written, additionalProperties: false };
  api.post("/", { schema: { body, response: { 201: task } } }, async ({ user, body }, reply) => {
    const { title, description = null, completed = false } = body;
    const now = new Date();
    reply.code(201);
    return one(reply, await sql`
      INSERT INTO tasks (id, user_id, title, description, completed, created_at, updated_at)
      VALUES (${randomUUID()}, ${user.sub}, ${title}, ${description}, ${completed}, ${now}, ${now})
      RETURNING ${columns}`);
  });

  api.get("/:id", { schema: { params, response: { 200: task } } }, async ({ user, params }, reply) =>
    one(reply, await sql`SELECT ${columns} FROM tasks WHERE user_id = ${user.sub} AND id = ${params.id}`));

  const patch = { type: "object", properties: written, additionalProperties: false };
  api.patch("/:id", { schema: { params, body: patch, response: { 200: task } } }, async ({ user, params, body }, reply) =>
    one(reply, await sql`
      UPDATE tasks SET ${sql({ ...body, updated_at: new Date() })}
      WHERE user_id = ${user.sub} AND id = ${params.id} RETURNING ${columns}`));

  api.post("/:id/toggle", { schema: { params, response: { 200: task } } }, async ({ user, params }, reply) =>
    one(reply, await sql`
      UPDATE tasks SET completed = NOT completed, updated_at = ${new Date()}
      WHERE user_id = ${user.sub} AND id = ${params.id} RETURNING ${columns}`));
}, { prefix: "/api/tasks" });

await app.listen({ host: "127.0.0.1", port: Number(process.argv.at(-1)) });
process.once("SIGTERM", async () => {
  await app.close();
  await sql.end();
});

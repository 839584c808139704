// backend/static/tasks.js against a running service: API_URL, and the tokens of two users, come from the environment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TasksClient, TasksError, uuid7 } from "../../backend/static/tasks.js";

const { API_URL, ALICE, BOB } = process.env;
const REFUSED = ALICE.replace(/[^.]*$/, "x"); // Alice's, with a broken signature
const network = globalThis.fetch;

/** Make a client that notes its requests, and lets a test have its way with them before the service does. */
function watched(getToken, before = () => undefined) {
  const requests = [];
  globalThis.fetch = async (url, options) => {
    const request = { method: options.method, path: url.slice(API_URL.length), ...options.headers };
    requests.push(request);
    return (await before(request, requests.length, options)) ?? network(url, options);
  };
  return { client: new TasksClient(API_URL, getToken), requests };
}

const as = (token) => async () => token;

test("who is not signed in sends nothing", async () => {
  for (const nobody of [null, "", undefined]) {
    const { client, requests } = watched(as(nobody));
    await assert.rejects(client.list(), { name: "TasksError", status: 401, code: "token_missing" });
    assert.deepEqual(requests, []);
  }
});

test("requests that are refused at once fetch one new token", async () => {
  const given = [REFUSED, ALICE];
  let fetched = 0;
  const { client, requests } = watched(async () => given[fetched++]);
  await Promise.all(Array.from({ length: 10 }, () => client.list()));
  assert.equal(fetched, 2);
  assert.equal(requests.length, 20);
  await client.list();
  assert.equal(fetched, 2);
});

test("a token that stays refused is an error, not a loop", async () => {
  const { client, requests } = watched(as(REFUSED));
  await assert.rejects(client.list(), { status: 401, code: "token_invalid" });
  assert.equal(requests.length, 2);
});

test("a failure to fetch a token does not stay", async () => {
  let fetched = 0;
  const { client } = watched(async () => {
    if (fetched++ === 0) throw new TypeError("offline");
    return ALICE;
  });
  await assert.rejects(client.list(), TypeError);
  await client.list();
});

test("after forget() nothing of the user before arrives, and nothing is asked in its name", async () => {
  let token = ALICE;
  let slow;
  const { client, requests } = watched(
    async () => token,
    (request, count) => (count === 1 ? new Promise((resolve) => (slow = resolve)) : undefined),
  );
  const late = client.list();
  await new Promise(setImmediate);
  token = BOB;
  client.forget();
  slow();
  await assert.rejects(late, { name: "AbortError" });
  await client.list();
  assert.equal(requests.at(-1).Authorization, `Bearer ${BOB}`);
});

test("a token of another user in the same session is refused by the client itself", async () => {
  const given = [REFUSED, BOB];
  const { client, requests } = watched(async () => given.shift());
  await assert.rejects(client.list(), { status: 401, code: "user_changed" });
  assert.equal(requests.filter((request) => request.Authorization === `Bearer ${BOB}`).length, 0);
});

test("what is expected of the session holds for tokens to come", async () => {
  const { client } = watched(as(ALICE));
  const user = await client.user();
  client.expect(user);
  assert.equal(await client.user(), user);
  client.expect("somebody-else");
  await assert.rejects(client.list(), { code: "user_changed" });
});

test("a problem is a typed error", async () => {
  const { client } = watched(as(ALICE));
  const error = await client.get(uuid7()).catch((error) => error);
  assert.ok(error instanceof TasksError);
  assert.deepEqual([error.status, error.code, error.errors, error.current], [404, "task_not_found", [], null]);
  assert.equal(error.message, error.detail);
  assert.match(error.requestId, /^[0-9a-f]{32}$/);
  const { errors } = await client.update(uuid7(), { title: " " }).catch((error) => error);
  assert.deepEqual([errors[0].pointer, errors[0].code], ["/title", "blank"]);
});

test("what is not the API's response is an error, too", async () => {
  const { client } = watched(as(ALICE), () => new Response("<html>", { status: 502 }));
  await assert.rejects(client.list(), { status: 502, code: "not_the_api" });
});

test("pages follow each other to the end, also as TanStack Query asks for them", async () => {
  const { client } = watched(as(BOB));
  for (let number = 0; number < 7; number++) await client.create({ title: `Task ${number}` });
  const pages = [];
  for await (const { tasks } of client.pages({ limit: 3 })) pages.push(tasks.map(({ title }) => title));
  assert.deepEqual(pages, [["Task 6", "Task 5", "Task 4"], ["Task 3", "Task 2", "Task 1"], ["Task 0"]]);
  const { queryFn, initialPageParam, getNextPageParam } = client.infiniteQuery({ limit: 5 });
  const { signal } = new AbortController();
  const first = await queryFn({ pageParam: initialPageParam, signal });
  const second = await queryFn({ pageParam: getNextPageParam(first), signal });
  assert.deepEqual(second.tasks.map(({ title }) => title), ["Task 1", "Task 0"]);
  assert.equal(getNextPageParam(second), null);
  const key = client.infiniteQuery().queryKey[1];
  client.forget();
  assert.notEqual(client.infiniteQuery().queryKey[1], key);
});

test("a read that is repeated costs no body", async () => {
  const statuses = [];
  const { client } = watched(as(BOB), async (request, count, options) => {
    const response = await network(API_URL + request.path, options);
    statuses.push(response.status);
    return response;
  });
  const [first, second] = [await client.list(), await client.list()];
  assert.deepEqual(statuses, [200, 304]);
  assert.deepEqual(second, first);
});

test("a create whose outcome is unknown is repeated, and makes one task", async () => {
  const unknown = { status: 503, code: "outcome_unknown", detail: "Nobody knows." };
  const { client, requests } = watched(as(ALICE), async (request, count, options) => {
    if (count > 1) return undefined;
    await network(API_URL + request.path, options); // it was done, but its response is lost
    return new Response(JSON.stringify(unknown), { status: 503, headers: { "Content-Type": "application/problem+json" } });
  });
  const task = await client.create({ title: "Once" });
  assert.deepEqual(requests.map(({ method, path }) => [method, path]), Array(2).fill(["PUT", `/api/tasks/${task.id}`]));
  assert.equal((await client.list({ search: "Once" })).tasks.length, 1);
});

test("a toggle whose outcome is unknown is not repeated", async () => {
  const unknown = { status: 503, code: "outcome_unknown", detail: "Nobody knows." };
  const { client, requests } = watched(as(ALICE), () =>
    new Response(JSON.stringify(unknown), { status: 503, headers: { "Content-Type": "application/problem+json" } }),
  );
  await assert.rejects(client.toggle(uuid7()), { code: "outcome_unknown" });
  assert.equal(requests.length, 1);
});

test("a write that comes too late says what is there", async () => {
  const { client } = watched(as(ALICE));
  const task = await client.create({ title: "Buy milk", description: "Two litres" });
  const changed = await client.update(task.id, { title: "Buy bread", description: null }, { ifMatch: task.etag });
  assert.equal(changed.description, null);
  const error = await client.update(task.id, { title: "Buy rice" }, { ifMatch: task.etag }).catch((error) => error);
  assert.deepEqual([error.status, error.current], [412, changed]);
});

test("a follower has what the service has, and starts anew where it must", async () => {
  const { client } = watched(as(ALICE));
  const replica = new Map();
  let checkpoint = null;
  const follow = async () => {
    const { changes, anew, ...rest } = await client.changes(checkpoint, 2);
    if (anew) replica.clear();
    for (const change of changes) "deleted" in change ? replica.delete(change.id) : replica.set(change.id, change);
    ({ checkpoint } = rest);
    assert.deepEqual([...replica.values()].sort((a, b) => (a.id < b.id ? 1 : -1)), (await client.list()).tasks);
    return anew;
  };
  const [one, two] = [await client.create({ title: "One" }), await client.create({ title: "Two" })];
  assert.equal(await follow(), false);
  await client.delete(one.id);
  await client.toggle(two.id);
  assert.equal(await follow(), false);
  await client.restore(one.id);
  assert.equal(await follow(), false);
  checkpoint = "of no use";
  assert.equal(await follow(), true);
});

test("a batch does what it can, each operation for itself", async () => {
  const { client } = watched(as(ALICE));
  const id = uuid7();
  const results = await client.batch(
    [{ op: "put", id, task: { title: "One" } }, { op: "patch", id: uuid7(), task: { title: "None" } }, { op: "toggle", id }],
    { atomic: false },
  );
  assert.deepEqual(results.map(({ status }) => status), [201, 404, 200]);
  assert.equal(results[1].problem.code, "task_not_found");
  assert.equal(results[2].task.completed, true);
});

test("what is pushed is done once, and what cannot be is no reason to refuse the rest", async () => {
  const { client } = watched(as(ALICE));
  const [kept, deleted] = [uuid7(), uuid7()];
  const operations = [
    { op: "put", id: kept, task: { title: "Kept" } },
    { op: "put", id: deleted, task: { title: "Deleted" } },
    { op: "patch", id: kept, task: { title: 1 } }, // which has the whole batch refused
    { op: "delete", id: deleted },
  ];
  const pushed = async (some) => (await client.push(some)).map(({ id, status, problem }) => [id, status, problem?.code]);
  assert.deepEqual(await pushed(operations), [
    [kept, 201, undefined], [deleted, 201, undefined], [kept, 422, "validation_error"], [deleted, 204, undefined],
  ]);
  assert.deepEqual(await pushed(operations.slice(3)), [[deleted, 204, undefined]]); // its response was lost
  const { client: stranger } = watched(as(REFUSED));
  await assert.rejects(stranger.push(operations), { status: 401 }); // to be pushed again by who signs in
});

test("the end of a session is told to who waits to send something", async () => {
  const { client } = watched(as(ALICE));
  const { ended } = client;
  client.expect(await client.user());
  assert.equal(ended.aborted, false);
  client.expect("somebody-else");
  assert.equal(ended.aborted, true);
  assert.equal(client.ended.aborted, false);
});

test("ids are UUIDs of version 7, in the order in which they are made", () => {
  const ids = Array.from({ length: 1000 }, uuid7);
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual([...ids].sort(), ids);
  assert.ok(Math.abs(parseInt(ids[0].replace("-", "").slice(0, 12), 16) - Date.now()) < 60_000);
});

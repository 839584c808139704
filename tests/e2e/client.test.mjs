// backend/static/tasks.js against a running service: API_URL, and the tokens of two users, come from the environment.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
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

/** What the service says where it refuses, or cannot. */
const problem = (status, code, headers) =>
  new Response(JSON.stringify({ status, code, detail: "No." }), {
    status, headers: { "Content-Type": "application/problem+json", ...headers },
  });

/** Have the service do it, and lose its response. */
async function lost({ path }, count, options) {
  await network(API_URL + path, options);
  throw new TypeError("cut off");
}

const TOO_LARGE = { op: "put", id: uuid7(), task: { title: "x".repeat(2 ** 20) } }; // any batch with it is refused

/** Have the client's pauses pass at once, and note their seconds. Part of each is chance; timers of others are whole. */
function hurried(t, length = 1) {
  const [pauses, wait] = [[], globalThis.setTimeout];
  t.mock.method(globalThis, "setTimeout", (action, milliseconds, ...rest) => {
    if (Number.isInteger(milliseconds)) return wait(action, milliseconds, ...rest);
    pauses.push(milliseconds / 1000);
    return wait(action, length);
  });
  return pauses;
}

/** The client's limits to silence that run, oldest first: a test calls one where a minute is over. Pauses pass at once. */
function limits(t) {
  const [running, set, clear] = [new Map(), globalThis.setTimeout, globalThis.clearTimeout];
  t.mock.method(globalThis, "setTimeout", (action, milliseconds, ...rest) => {
    const timer = set(action, Number.isInteger(milliseconds) ? milliseconds : 1, ...rest);
    if (milliseconds === 60_000) running.set(timer, action);
    return timer;
  });
  t.mock.method(globalThis, "clearTimeout", (timer) => {
    running.delete(timer);
    clear(timer);
  });
  return running;
}

/** A service that takes requests and never responds. */
async function silent(t) {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

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

test("a failure to fetch a token does not stay", async (t) => {
  hurried(t);
  let fetched = 0;
  const { client } = watched(async () => {
    if (fetched++ === 0) throw new TypeError("offline");
    return ALICE;
  });
  await assert.rejects(client.toggle(uuid7()), TypeError);
  await client.list();
  fetched = 0;
  client.forget();
  await client.list(); // which can be sent again
});

test("a token that ends while there is no network is replaced, whenever that was", async (t) => {
  hurried(t);
  const given = [REFUSED, REFUSED, ALICE];
  const { client, requests } = watched(async () => given.shift(), (request, count) => {
    if (count === 2) throw new TypeError("offline");
  });
  await client.list();
  assert.deepEqual(requests.map(({ Authorization }) => Authorization.slice(7)), [REFUSED, REFUSED, REFUSED, ALICE]);
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

test("what is not the API's response is an error, too", async (t) => {
  hurried(t);
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
  const first = structuredClone(await client.list());
  for (const status of [304, 304]) {
    const { tasks } = await client.list();
    assert.deepEqual(tasks, first.tasks);
    assert.equal(statuses.at(-1), status);
    tasks.shift().title = "never sent"; // what is kept is not the caller's
  }
});

test("a create whose outcome is unknown is repeated, and makes one task", async (t) => {
  hurried(t);
  const { client, requests } = watched(as(ALICE), async (request, count, options) => {
    if (count > 1) return undefined;
    await network(API_URL + request.path, options); // it was done, but its response is lost
    return problem(503, "outcome_unknown");
  });
  const task = await client.create({ title: "Once" });
  assert.deepEqual(requests.map(({ method, path }) => [method, path]), Array(2).fill(["PUT", `/api/tasks/${task.id}`]));
  assert.equal((await client.list({ search: "Once" })).tasks.length, 1);
});

test("a create that is repeated takes back nothing that came between, and creates only", async (t) => {
  hurried(t);
  const { client } = watched(as(ALICE), async ({ path, Authorization }, count, options) => {
    if (count > 1) return undefined;
    const headers = { Authorization, "Content-Type": "application/json" };
    await network(API_URL + path, options);
    await network(API_URL + path, { method: "PATCH", headers, body: '{"title": "Milk"}' }); // by another device
    throw new TypeError("cut off");
  });
  const task = await client.create({ title: "Mlik" });
  assert.equal(task.title, "Milk");
  assert.deepEqual(await client.get(task.id), task);
  await assert.rejects(client.create({ title: "Mlik" }, task.id), { status: 412 });
});

test("a create for which there was no token at first is refused where there is a task", async (t) => {
  hurried(t);
  let isOffline = false;
  const { client, requests } = watched(async () => {
    if (!isOffline) return ALICE;
    isOffline = false;
    throw new TypeError("offline");
  });
  const { id } = await client.create({ title: "There" });
  client.forget();
  isOffline = true;
  await assert.rejects(client.create({ title: "New" }, id), { status: 412 });
  assert.equal(requests.length, 2);
});

test("a write that is sent again comes before those that follow it", async (t) => {
  hurried(t);
  const fates = [];
  const { client, requests } = watched(as(ALICE), ({ path }, count, options) => fates.shift()?.({ path }, count, options));
  const id = uuid7();
  const patch = (title) => ({ op: "patch", id, task: { title } });
  const sent = () => requests.splice(0).map(({ method, path }) => `${method} ${path.split("/").at(-1).replace(id, "")}`.trim());

  fates.push(lost);
  await Promise.all([client.create({ title: "Mlik" }, id), client.update(id, { title: "Milk" })]);
  assert.deepEqual(sent(), ["PUT", "PUT", "PATCH"]);

  fates.push(lost, undefined, lost);
  await Promise.all([client.update(id, { title: "Tea" }), client.batch([patch("Rice")]), client.update(id, { title: "Milk" })]);
  assert.deepEqual(sent(), ["PATCH", "PATCH", "POST batch", "POST batch", "PATCH"]);

  await Promise.all([client.push([patch("Tea"), TOO_LARGE]), client.update(id, { title: "Milk" })]);
  assert.deepEqual(sent(), ["POST batch", "POST batch", "POST batch", "PATCH"]);

  fates.push(lost);
  await Promise.all([client.delete(id), client.restore(id)]);
  assert.deepEqual(sent(), ["DELETE", "DELETE", "POST restore"]);
  assert.equal((await client.get(id)).title, "Milk");
});

test("moves keep their order where they go by the same place, and come after what was asked of that", async (t) => {
  hurried(t);
  const fates = [];
  const { client } = watched(as(ALICE), ({ path }, count, options) => fates.shift()?.({ path }, count, options));
  const order = async () => (await client.list({ sort: "position", limit: 3 })).tasks.map(({ id }) => id);
  const [one, two, three] = [uuid7(), uuid7(), uuid7()];
  await client.create({ title: "One" }, one);
  await client.create({ title: "Two" }, two);
  fates.push(lost);
  await Promise.all([client.move(one, { to: "first" }), client.move(two, { to: "first" })]);
  assert.deepEqual((await order()).slice(0, 2), [two, one]);
  fates.push(() => problem(503, "overloaded"));
  await Promise.all([client.create({ title: "Three" }, three), client.move(one, { after: three })]);
  assert.deepEqual(await order(), [three, one, two]);
});

test("a write waits for those of its task alone, and passes none of them when another is given up", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const { client, requests } = watched(as(ALICE), (request, count) => (count === 3 ? held : undefined));
  const [one, other] = [await client.create({ title: "One" }), await client.create({ title: "Other" })];
  const first = client.toggle(one.id);
  await client.toggle(other.id);
  const giving = new AbortController();
  const second = client.update(one.id, { title: "Two" }, { signal: giving.signal });
  const third = client.update(one.id, { title: "Three" });
  giving.abort();
  await assert.rejects(second, { name: "AbortError" });
  assert.equal(requests.length, 4); // the third does not pass the first
  release();
  await first;
  assert.equal((await third).title, "Three");
  assert.equal(requests.length, 5);
});

test("a write whose turn comes in the next session is not sent", async (t) => {
  const { url } = await silent(t);
  const { client, requests } = watched(as(ALICE), (request, count, options) => network(url, options));
  const id = uuid7();
  const writes = [client.toggle(id), client.delete(id), client.push([{ op: "delete", id }])];
  const outcomes = Promise.allSettled(writes);
  await new Promise(setImmediate);
  client.forget();
  for (const { reason } of await outcomes) assert.equal(reason.name, "AbortError");
  assert.equal(requests.length, 1);
});

test("a toggle whose outcome is unknown is not repeated", async () => {
  const { client, requests } = watched(as(ALICE), () => problem(503, "outcome_unknown"));
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

test("a safe write whose response was lost is not refused for what it has done itself", async (t) => {
  hurried(t);
  const fates = [];
  const { client } = watched(as(ALICE), ({ path }, count, options) => fates.shift()?.({ path }, count, options));
  const { id, etag } = await client.create({ title: "Buy milk" });
  fates.push(lost);
  const changed = await client.update(id, { title: "Buy bread", tags: ["home"] }, { ifMatch: etag });
  assert.deepEqual(changed, await client.get(id));
  fates.push(() => problem(503, "outcome_unknown"));
  await assert.rejects(client.update(id, { title: "Buy rice" }, { ifMatch: etag }), { status: 412, current: changed });
  fates.push(() => problem(503, "outcome_unknown"));
  await assert.rejects(client.delete(id, { ifMatch: etag }), { status: 412 });
});

test("an atomic batch that may have been done is not called refused", async (t) => {
  hurried(t);
  const fates = [];
  const { client } = watched(as(ALICE), ({ path }, count, options) => fates.shift()?.({ path }, count, options));
  const { id, etag } = await client.create({ title: "Mlik" });
  fates.push(lost);
  await assert.rejects(client.batch([{ op: "patch", id, if_match: etag, task: { title: "Milk" } }]), TypeError);
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
    { op: "patch", id: kept, task: { title: 1 } },
    { op: "delete", id: deleted },
  ];
  const pushed = async (some) => (await client.push(some)).map(({ id, status, problem }) => [id, status, problem?.code]);
  assert.deepEqual(await pushed(operations), [
    [kept, 201, undefined], [deleted, 201, undefined], [kept, 422, "validation_error"], [deleted, 204, undefined],
  ]);
  for (const others of [[], [TOO_LARGE]]) { // with which each is sent alone
    const [, { problem }] = await client.push([operations[0], operations[2], ...others]);
    assert.equal(problem.detail, "title: must be a string");
    assert.equal(problem.errors[0].pointer, "/title");
  }
  assert.deepEqual(await pushed(operations.slice(3)), [[deleted, 204, undefined]]); // its response was lost
  const { client: stranger } = watched(as(REFUSED));
  await assert.rejects(stranger.push(operations), { status: 401 }); // to be pushed again by who signs in
});

test("where there is nothing to push, nothing is sent", async () => {
  const { client, requests } = watched(as(ALICE));
  assert.deepEqual(await client.push([]), []);
  assert.deepEqual(requests, []);
});

test("a gateway's problem is not the API's", async () => {
  const headers = { "Content-Type": "application/problem+json" };
  const { client } = watched(as(ALICE), () => new Response('{"title": "Forbidden"}', { status: 403, headers }));
  const [{ status, problem }] = await client.push([{ op: "put", id: uuid7(), task: { title: "One" } }]);
  const detail = "Something other than the tasks API has answered.";
  assert.deepEqual([status, problem.status, problem.code, problem.detail], [403, 403, "not_the_api", detail]);
});

test("a captive portal refuses no change", async () => {
  const { client, requests } = watched(as(ALICE), () => new Response("<html>", { status: 404 }));
  const operations = ["One", "Two"].map((title) => ({ op: "put", id: uuid7(), task: { title } }));
  await assert.rejects(client.push(operations), { code: "not_the_api", isFinal: false });
  assert.equal(requests.length, 1);
});

test("a page that is cut off is read again, and those before it are not", async (t) => {
  hurried(t);
  const { client, requests } = watched(as(ALICE), async ({ path }, count, options) => {
    if (count !== 2) return undefined;
    const { body, headers } = await network(API_URL + path, options);
    const { value } = await body.getReader().read();
    return new Response(new ReadableStream({
      pull(page) { page.enqueue(value.slice(0, 9)); page.error(new TypeError("cut off")); },
    }), { headers });
  });
  const { changes } = await client.changes(null, 5);
  const tasks = (await client.list()).tasks.map(({ id }) => id);
  assert.deepEqual(changes.filter(({ deleted }) => !deleted).map(({ id }) => id).sort(), tasks.sort());
  const [first, ...others] = requests.filter(({ path }) => path.includes("changes")).map(({ path }) => path);
  assert.equal(first, "/api/tasks/changes?limit=5");
  assert.equal(others[0], others[1]);
  assert.equal(new Set(others).size, others.length - 1);
});

test("what was begun in one session does not go on in the next", async () => {
  let token = ALICE;
  const { client, requests } = watched(async () => token, async ({ path }, count, options) => {
    const response = await network(API_URL + path, options);
    const bytes = new Uint8Array(await response.arrayBuffer());
    return new Response(new ReadableStream({
      pull(body) {
        body.enqueue(bytes);
        body.close();
        token = BOB;
        client.forget(); // at the last moment at which there is something to abort
      },
    }, { highWaterMark: 0 }), response);
  });
  for (const limit of [1, 500]) { // the next page is not asked for, and the last one does not arrive
    await assert.rejects(client.changes(null, limit), { name: "AbortError" });
    token = ALICE;
    client.forget();
  }
  await assert.rejects(client.push([TOO_LARGE, TOO_LARGE]), { name: "AbortError" });
  assert.deepEqual(requests.map(({ Authorization }) => Authorization), Array(3).fill(`Bearer ${ALICE}`));
});

test("pages of changes are of one user, at whatever moment the session ends", async () => {
  let token, wait;
  const page = { changes: [], checkpoint: "1", more: true };
  const { client, requests } = watched(async () => token, () => {
    const end = () => (wait-- > 0 ? queueMicrotask(end) : (client.forget(), (token = BOB)));
    end();
    return requests.length > 1 ? Response.json({ ...page, more: false }) : Response.json(page);
  });
  for (let moment = 0; moment < 200; moment++) {
    [token, wait, requests.length] = [ALICE, moment, 0];
    client.forget();
    await client.changes(null, 1, {}).catch(({ name }) => assert.equal(name, "AbortError"));
    assert.ok(!requests.some(({ Authorization }) => Authorization === `Bearer ${BOB}`), `after ${moment} steps`);
  }
});

test("pages that one user has begun to read do not go on as another's", async () => {
  let token = ALICE;
  const { client, requests } = watched(async () => token);
  for (let count = 0; count < 3; count++) await client.create({ title: `of Alice ${count}` });
  const pages = client.pages({ limit: 1 });
  const { queryFn } = client.infiniteQuery({ limit: 1 });
  await pages.next();
  const { next } = await queryFn({ pageParam: null, signal: new AbortController().signal });
  token = BOB;
  client.forget();
  const before = requests.length;
  await assert.rejects(pages.next(), { name: "AbortError" });
  await assert.rejects(queryFn({ pageParam: next, signal: new AbortController().signal }), { name: "AbortError" });
  assert.equal(requests.length, before);
});

test("a response that never comes is taken for lost", async (t) => {
  const { server, url } = await silent(t);
  const running = limits(t);
  const { client, requests } = watched(as(ALICE), ({ path }, count, options) => (count === 1 ? network(url, options) : undefined));
  const asked = once(server, "connection");
  const listing = client.list();
  await asked;
  const [minute] = running.values();
  minute();
  await listing;
  assert.equal(requests.length, 2);
  assert.equal(running.size, 0); // nothing keeps the process
});

test("a response is read however slowly it comes, and given up where it stops", async (t) => {
  const running = limits(t);
  const page = JSON.stringify({ changes: [], checkpoint: "ä€😀", more: false });
  const bytes = new TextEncoder().encode(page);
  const slowly = (end, minutes = new Set()) => new Response(new ReadableStream({
    async pull(body) {
      await new Promise(setImmediate); // the client waits for the next piece by then
      const [[minute, isOver]] = running;
      if (minutes.has(minute)) isOver(); // each piece must have one of its own
      minutes.add(minute);
      const sent = (minutes.size - 1) * 6;
      if (sent < end) body.enqueue(bytes.slice(sent, sent + 6));
      else if (end < bytes.length) isOver();
      else body.close();
    },
  }));
  const { client, requests } = watched(as(ALICE), (request, count) => slowly(count === 1 ? 12 : bytes.length));
  assert.equal((await client.changes()).checkpoint, "ä€😀");
  assert.equal(requests.length, 2);
  assert.equal(running.size, 0);
});

test("as long as the service asks, nothing is sent, and who cannot wait is told", async (t) => {
  const pauses = hurried(t);
  const page = { changes: [], checkpoint: "1", more: false };
  const asking = (header) =>
    watched(as(ALICE), (request, count) =>
      count === 1 ? problem(429, "too_many_requests", { "Retry-After": header }) : Response.json(page),
    );
  for (const [header, least] of [["7", 7], ["0", 1], ["-1", 1], ["Fri, 27 Nov 2026 23:05:09 GMT", 1]]) {
    await asking(header).client.list();
    const pause = pauses.pop();
    assert.ok(pause >= least && pause <= least * 1.5, `${pause} seconds for ${header}`);
  }
  for (const [header, least] of [["600", 600], ["9999999999", 3600]]) { // a timer of months would end at once
    const { client, requests } = asking(header);
    await assert.rejects(client.list(), { status: 429, retryAfter: least });
    assert.equal(requests.length, 1);
    const follower = asking(header).client.follow(() => undefined, assert.ifError);
    await follower.exchange([]);
    follower.stop();
    assert.ok(pauses[0] >= least && pauses[0] <= least * 1.5, `${pauses[0]} seconds for ${header}`);
    pauses.length = 0;
  }
});

test("what may run twice is pushed until the service is reached, and what may not, once", async (t) => {
  hurried(t);
  const [one, two] = [uuid7(), uuid7()];
  const fates = []; // of the batches to come
  const { client } = watched(as(ALICE), ({ method, path }, count, options) =>
    method === "POST" ? fates.shift()?.({ path }, count, options) : undefined,
  );
  const replica = new Map();
  const apply = ({ changes }) => changes.forEach((change) => replica.set(change.id, change));
  const follower = client.follow(apply, assert.ifError, 100);

  await follower.exchange([one, two].map((id) => ({ op: "put", id, task: { title: "Two" } })));
  fates.push(lost, () => problem(429, "too_many_requests"), () => new Response("<html>", { status: 502 }), lost);
  const results = await follower.exchange([
    { op: "patch", id: one, task: { title: "One" } }, { op: "delete", id: two }, { op: "put", id: one, task: { completed: true } },
  ]);
  assert.deepEqual(results.map(({ status }) => status), [200, 204, 200]);
  assert.deepEqual([replica.get(one).title, replica.get(one).completed, replica.get(two).deleted], ["One", true, true]);
  assert.equal(fates.length, 0);

  const toggle = { op: "toggle", id: one };
  fates.push(lost);
  await assert.rejects(follower.exchange([toggle]), TypeError);
  fates.push(undefined, undefined, lost); // the batch is refused, each is sent alone, and the second is lost
  const known = [];
  await assert.rejects(follower.exchange([toggle, toggle, TOO_LARGE], known), TypeError);
  assert.deepEqual(known.map(({ id, status }) => [id, status]), [[one, 200]]);
  await follower.exchange([]);
  assert.equal(replica.get(one).completed, false); // toggled three times
  fates.push(() => problem(503, "overloaded"));
  const [{ task }] = await follower.exchange([toggle]); // which was not done before
  assert.equal(task.completed, true);
  fates.push(lost);
  const [{ status }] = await follower.exchange([{ ...toggle, if_match: task.etag }]);
  assert.equal(status, 412); // it was done: this is another task by now
  assert.equal(replica.get(one).completed, false);
  follower.stop();
});

test("a follower stops at once, whatever it waits for", async (t) => {
  const { server, url } = await silent(t);
  const asked = once(server, "connection");
  const closed = asked.then(([socket]) => once(socket.resume(), "close"));
  const pauses = hurried(t, 2 ** 30);
  const paused = async () => {
    while (pauses.length === 0) await new Promise(setImmediate);
  };
  globalThis.fetch = network;
  for (const [base, getToken, begun] of [
    [url, as(ALICE), () => asked],
    ["http://127.0.0.1:1", as(ALICE), paused],
    [API_URL, () => new Promise(() => undefined), () => undefined],
  ]) {
    const follower = new TasksClient(base, getToken).follow(assert.fail, assert.fail);
    const exchanges = [[], [{ op: "toggle", id: uuid7() }]].map((operations) => follower.exchange(operations));
    const outcomes = Promise.allSettled(exchanges);
    await begun();
    follower.stop();
    for (const { reason } of [...(await outcomes), ...(await Promise.allSettled([follower.exchange([])]))])
      assert.equal(reason.name, "AbortError");
  }
  await closed;
});

test("who is patient waits while something else responds for the service", async (t) => {
  hurried(t);
  const page = () => new Response("<html>", { status: 404 }); // of a captive portal, or of a proxy in a redeployment
  const away = [page, page];
  const { client, requests } = watched(as(ALICE), () => away.shift()?.());
  const waiting = { signal: client.ended, patient: true };
  await client.changes(null, 500, waiting);
  away.push(page, page);
  const [{ status }] = await client.push([{ op: "put", id: uuid7(), task: { title: "Waited" } }], waiting);
  assert.equal(status, 201);
  away.push(page);
  await assert.rejects(client.push([{ op: "toggle", id: uuid7() }], waiting), { code: "not_the_api" }); // was it passed on?
  assert.equal(requests.length, 3 + 3 + 1);
});

test("a change that a proxy or a firewall refuses is refused, and the rest goes on", async () => {
  for (const status of [403, 406, 413]) {
    const { client, requests } = watched(as(ALICE), (request, count, { body }) =>
      body?.includes("<script>") ? new Response("<html>", { status }) : undefined,
    );
    const follower = client.follow(() => undefined, assert.ifError);
    const put = (title) => ({ op: "put", id: uuid7(), task: { title } });
    const [refused, other] = await follower.exchange([put("learn <script>"), put("other")]);
    assert.deepEqual([refused.status, refused.problem.isFinal, other.status], [status, true, 201]);
    const [later] = await follower.exchange([put("later")]);
    assert.equal(later.status, 201);
    const paths = requests.map(({ path }) => path.split("/").at(-1).split("?")[0]);
    assert.deepEqual(paths, ["changes", "batch", "batch", "batch", "changes", "batch", "changes"]);
    follower.stop();
  }
});

test("a firewall that lets nothing be read is told, and waited for in vain by nobody", async () => {
  const { client } = watched(as(ALICE), () => new Response("<html>", { status: 403 }));
  const { status, code } = await new Promise((resolve) => client.follow(assert.fail, resolve));
  assert.deepEqual([status, code], [403, "not_the_api"]);
});

test("what was pushed is known, although what has changed cannot be read or applied", async () => {
  globalThis.fetch = network;
  const client = new TasksClient(API_URL, as(ALICE));
  const { id } = await client.create({ title: "Toggled once" });
  const bug = new Error("a bug in apply");
  const errors = [];
  let applies = true;
  const follower = client.follow(() => { if (!applies) throw bug; }, (error) => errors.push(error));
  await follower.exchange([]);
  applies = false;
  const [{ task }] = await follower.exchange([{ op: "toggle", id }]);
  assert.equal(task.completed, true);
  assert.deepEqual(errors, [bug]);
  await assert.rejects(follower.exchange([]), bug);
});

test("what does not pass ends a follower, and its caller is told", async () => {
  globalThis.fetch = network;
  const bug = new TypeError("a bug in apply");
  const broken = () => {
    if (bug.thrown) assert.fail("it is over");
    bug.thrown = true;
    throw bug;
  };
  for (const [expected, base, token, apply] of [
    [bug, API_URL, ALICE, broken],
    [{ code: "token_missing" }, API_URL, null, assert.fail],
    [{ code: "token_invalid" }, API_URL, REFUSED, assert.fail],
    [{ code: "not_found" }, `${API_URL}/elsewhere`, ALICE, assert.fail],
  ]) {
    const errors = [];
    const [follower, waiting] = await new Promise((resolve) => {
      const follower = new TasksClient(base, as(token)).follow(apply, (error) => {
        errors.push(error);
        resolve([follower, waiting]);
      });
      const waiting = follower.exchange([]);
      waiting.catch(() => undefined);
    });
    for (const told of [Promise.reject(errors[0]), waiting, follower.exchange([])]) await assert.rejects(told, expected);
    assert.equal(errors.length, 1);
  }
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

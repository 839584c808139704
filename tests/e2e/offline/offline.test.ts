// Two clients of each library edit offline and come back: they end with what the service has, and nothing is lost.
import assert from "node:assert/strict";
import { createServer, connect, type AddressInfo, type Server, type Socket } from "node:net";
import { test } from "node:test";
import { getRxStorageMemory } from "rxdb/plugins/storage-memory";
import { TasksClient, uuid7, type Changes, type ProblemDocument, type Result, type Task } from "../../../backend/static/tasks.ts";
import { tasksDatabase } from "./rxdb.ts";
import { tasksCollection } from "./tanstack-db.ts";

const { API_URL = "", SMALL_API_URL = "", TOKENS = "" } = process.env; // the small one has room for two tasks of a user
const tokens = TOKENS.split(" ");

const BLANK = {
  description: null, completed: false, priority: null, due_date: null, due_time: null, remind_at: null, tags: [],
  recurrence: null, position: 0, completed_at: null, created_at: "", updated_at: "", etag: "",
};
const task = (title: string): Task => ({ ...BLANK, id: uuid7(), title });

/** A network of one client's own, that can be cut. */
class Network {
  #sockets = new Set<Socket>();
  #server: Server = createServer((socket) => {
    const { hostname, port } = new URL(API_URL);
    const service = connect(Number(port), hostname);
    for (const [one, other] of [[socket, service], [service, socket]] as const) {
      this.#sockets.add(one.on("error", () => undefined).on("close", () => other.destroy()));
      one.pipe(other);
    }
  });
  #port = 0;

  async mend(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(this.#port, "127.0.0.1", resolve));
    this.#port = (this.#server.address() as AddressInfo).port;
    return `http://127.0.0.1:${this.#port}`;
  }

  cut(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }
}

/** A client that can be made to hold an expired checkpoint. */
class Forgetful extends TasksClient {
  forgets = false;

  override changes(since?: string | null, ...rest: [number?, { signal: AbortSignal }?]): Promise<Changes> {
    const expired = this.forgets && since;
    if (expired) this.forgets = false;
    return super.changes(expired ? "of no use" : since, ...rest);
  }
}

/** A client that can do something between reading what has changed and knowing it, and that reads and pushes when it may. */
class Slow extends TasksClient {
  between = async (_: Changes): Promise<void> => undefined;
  mayRead: Promise<void> = Promise.resolve();
  mayPush: Promise<void> = Promise.resolve();

  override async changes(...given: Parameters<TasksClient["changes"]>): Promise<Changes> {
    await this.mayRead;
    const found = await super.changes(...given);
    await this.between(found);
    return found;
  }

  override async push(...given: Parameters<TasksClient["push"]>): Promise<Result[]> {
    await this.mayPush;
    return super.push(...given);
  }
}

async function eventually(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(what);
}

interface Copy {
  titles(): Promise<string[]> | string[];
  insert(task: Task): void;
  update(id: string, change: (task: Task) => void): void;
  remove(id: string): void;
  close(): void;
}

type OnRefused = (problem: ProblemDocument) => void;

const libraries: Record<string, (client: TasksClient, onRefused?: OnRefused) => Promise<Copy>> = {
  async "TanStack DB"(client) {
    const collection = tasksCollection(client, assert.ifError, 100);
    await collection.preload();
    return {
      titles: () => collection.toArray.map(({ title, completed }) => `${title} ${completed}`).sort(),
      insert: (task) => collection.insert(task),
      update: (id, change) => collection.update(id, change),
      remove: (id) => collection.delete(id),
      close: () => void collection.cleanup(),
    };
  },
  async RxDB(client, onRefused = ({ detail }) => assert.fail(detail)) {
    const { database, tasks, replication } = await tasksDatabase(client, uuid7(), getRxStorageMemory(), onRefused, 100);
    await replication.awaitInitialReplication();
    const timer = setInterval(() => replication.reSync(), 100);
    return {
      titles: async () => (await tasks.find().exec()).map(({ title, completed }) => `${title} ${completed}`).sort(),
      insert: (task) => void tasks.insert(task),
      update: async (id, change) => void (await tasks.findOne(id).exec())?.incrementalModify((task: Task) => (change(task), task)),
      remove: async (id) => void (await tasks.findOne(id).exec())?.remove(),
      close: () => (clearInterval(timer), void database.close()),
    };
  },
};

for (const [name, open] of Object.entries(libraries)) {
  test(`two clients of ${name} edit offline and come back`, async () => {
    const token = tokens.pop()!;
    const service = new TasksClient(API_URL, async () => token);
    const networks = [new Network(), new Network()] as const;
    const urls = await Promise.all(networks.map((network) => network.mend()));
    const copies = await Promise.all(urls.map((url) => open(new TasksClient(url, async () => token))));
    const [one, two] = copies as [Copy, Copy];
    const has = async (copy: Copy, titles: string[]) => JSON.stringify(await copy.titles()) === JSON.stringify(titles);

    const [milk, bread, rent] = [task("Milk"), task("Bread"), task("Rent")];
    for (const each of [milk, bread, rent]) one.insert(each);
    await eventually(() => has(two, ["Bread false", "Milk false", "Rent false"]), "the second client has what the first made");

    networks[0].cut();
    networks[1].cut();
    one.update(milk.id, (task) => (task.title = "Oat milk"));
    two.update(milk.id, (task) => (task.completed = true)); // another field of the same task
    one.insert(task("Eggs"));
    two.insert(task("Salt"));
    two.remove(bread.id);
    await eventually(() => has(one, ["Bread false", "Eggs false", "Oat milk false", "Rent false"]), "the first shows its changes");
    await eventually(() => has(two, ["Milk true", "Rent false", "Salt false"]), "the second shows its changes");
    assert.deepEqual((await service.list()).tasks.map(({ title }) => title).sort(), ["Bread", "Milk", "Rent"]);

    await networks[1].mend();
    await networks[0].mend();
    const merged = ["Eggs false", "Oat milk true", "Rent false", "Salt false"];
    for (const copy of copies) await eventually(() => has(copy, merged), "both have what both did");
    const stored = (await service.list()).tasks.map(({ title, completed }) => `${title} ${completed}`).sort();
    assert.deepEqual(stored, merged);

    for (const copy of copies) copy.close();
    for (const network of networks) network.cut();
  });
}

for (const [name, open] of Object.entries(libraries)) {
  test(`what a user of ${name} did offline is not sent as the next user's`, async () => {
    const [ada, bob] = [tokens.pop()!, tokens.pop()!];
    let token = ada;
    const network = new Network();
    const client = new TasksClient(await network.mend(), async () => token);
    const service = new TasksClient(API_URL, async () => bob);

    const before = await open(client);
    before.insert(task("Ada's first"));
    await eventually(async () => (await new TasksClient(API_URL, async () => ada).list()).tasks.length === 1, "it is stored");
    network.cut();
    before.insert(task("Ada's"));
    client.forget();
    token = bob;
    if (name === "TanStack DB") await eventually(async () => (await before.titles()).length === 0, "nothing of Ada's is left");
    await network.mend();
    const copy = await open(client);
    const titles: string[] = [];
    for (const number of [1, 2, 3]) {
      await service.create({ title: `Bob's ${number}` });
      titles.push(`Bob's ${number} false`);
      await eventually(async () => (await copy.titles()).includes(titles.at(-1)!), "the copy follows");
    }
    assert.deepEqual(await copy.titles(), titles);
    assert.deepEqual((await service.list()).tasks.map(({ title }) => `${title} false`).sort(), titles);

    for (const each of [before, copy]) each.close();
    network.cut();
  });
}

for (const [name, open] of Object.entries(libraries)) {
  test(`what a user of ${name} did offline outlives a start anew`, async () => {
    const token = tokens.pop()!;
    const network = new Network();
    const client = new Forgetful(await network.mend(), async () => token);
    const service = new TasksClient(API_URL, async () => token);
    const copy = await open(client);
    const stored = async () => (await service.list()).tasks.map(({ title, completed }) => `${title} ${completed}`).sort();
    const have = async (titles: string[]) =>
      [await copy.titles(), await stored()].every((each) => JSON.stringify(each) === JSON.stringify(titles));

    const [milk, bread, rent] = [task("Milk"), task("Bread"), task("Rent")];
    for (const each of [milk, bread, rent]) copy.insert(each);
    await eventually(() => have(["Bread false", "Milk false", "Rent false"]), "the service has what was made");

    network.cut();
    client.forgets = true;
    copy.update(milk.id, (task) => (task.title = "Oat milk"));
    copy.insert(task("Eggs"));
    await service.delete(bread.id);
    await service.update(milk.id, { completed: true });
    await network.mend();
    await eventually(() => have(["Eggs false", "Oat milk true", "Rent false"]), "nothing that waited is lost");
    assert.equal(client.forgets, false);

    copy.close();
    network.cut();
  });
}

for (const [name, open] of Object.entries(libraries)) {
  test(`a deletion in ${name} is taken back`, async () => {
    const token = tokens.pop()!;
    const service = new TasksClient(API_URL, async () => token);
    const copy = await open(new TasksClient(API_URL, async () => token));
    const stored = async () => (await service.list()).tasks;

    copy.insert(task("Milk"));
    await eventually(async () => (await stored()).length === 1, "it is stored");
    const [milk] = await stored();
    copy.remove(milk!.id);
    await eventually(async () => (await stored()).length === 0, "it is deleted");
    await service.restore(milk!.id);
    await eventually(async () => (await copy.titles())[0] === "Milk false", "it is back");
    copy.close();
  });
}

test("what RxDB has no room for at the service stays, and is stored as soon as there is", async () => {
  const token = tokens.pop()!;
  const service = new TasksClient(SMALL_API_URL, async () => token);
  const refused: string[] = [];
  const copy = await libraries.RxDB!(new TasksClient(SMALL_API_URL, async () => token), ({ code }) => refused.push(code));
  const stored = async () => (await service.list()).tasks.map(({ title, completed }) => `${title} ${completed}`).sort();
  const [milk] = [await service.create({ title: "Milk" }), await service.create({ title: "Bread" })];
  await eventually(async () => (await copy.titles()).length === 2, "the copy follows");

  const eggs = task("Eggs");
  copy.insert(eggs);
  await eventually(() => refused.length > 0, "the user is told");
  copy.update(eggs.id, (task) => (task.title = "Six eggs"));
  copy.update(milk.id, (task) => (task.completed = true));
  await eventually(async () => (await stored()).includes("Milk true"), "what needs no room is stored");
  assert.deepEqual(await copy.titles(), ["Bread false", "Milk true", "Six eggs false"]);

  await service.delete(milk.id);
  const url = `${SMALL_API_URL}/api/tasks/${milk.id}?permanent=true`;
  await fetch(url, { method: "DELETE", headers: { Authorization: `Bearer ${token}` } });
  const both = JSON.stringify(["Bread false", "Six eggs false"]);
  await eventually(async () => JSON.stringify(await stored()) === both, "there is room now");
  await eventually(async () => JSON.stringify(await copy.titles()) === both, "the copy has what the service has");
  assert.deepEqual(refused, ["too_many_tasks"]);
  copy.close();
});

test("an edit in RxDB that is refused is told, and what others did meanwhile shows", async () => {
  const token = tokens.pop()!;
  const service = new TasksClient(API_URL, async () => token);
  const client = new Slow(API_URL, async () => token);
  const refused: string[] = [];
  const copy = await libraries.RxDB!(client, ({ code }) => refused.push(code));
  const milk = await service.create({ title: "Milk" });
  await eventually(async () => (await copy.titles())[0] === "Milk false", "the copy follows");

  let goOn = () => {};
  client.mayPush = new Promise((resolve) => (goOn = resolve));
  client.between = async ({ changes }) => {
    if (changes.length < 2) return;
    copy.update(milk.id, (task) => (task.title = " "));
    await eventually(async () => (await copy.titles())[0] === "  false", "the edit shows");
  };
  await service.batch([{ op: "toggle", id: milk.id }, { op: "put", id: uuid7(), task: { title: "Bread" } }]);
  await eventually(async () => (await copy.titles()).includes("Bread false"), "what has changed is known");
  goOn();
  await eventually(async () => (await copy.titles()).includes("Milk true"), "the copy has what the service has");
  assert.deepEqual(refused, ["validation_error"]);
  copy.close();
});

test("what RxDB has made, and somebody has deleted before it read anything, goes", async () => {
  const token = tokens.pop()!;
  const service = new TasksClient(API_URL, async () => token);
  const client = new Slow(API_URL, async () => token);
  const copy = await libraries.RxDB!(client);

  let goOn = () => {};
  client.mayRead = new Promise((resolve) => (goOn = resolve));
  const milk = task("Milk");
  copy.insert(milk);
  await eventually(async () => (await service.list()).tasks.length === 1, "it is stored");
  await service.delete(milk.id);
  goOn();
  await eventually(async () => (await copy.titles()).length === 0, "it is gone");
  copy.close();
});

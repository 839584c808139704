/**
 * A client of the tasks API in one file, to be copied into a frontend. Strict TypeScript, no dependency; for browsers
 * since 2024 and Node.js since 20. tasks.js is this file compiled, for who has no compiler.
 *
 * One `TasksClient` belongs to one session. The token, the ETags and the requests under way live in it alone, so that
 * after `forget()` the next user of the page sees nothing of the one before. The README shows how Better Auth's client
 * tells it of sign-ins and sign-outs. On a server, each request needs its own: a shared one would mix users up.
 */

export type Priority = "low" | "medium" | "high" | "urgent";

/** What a person writes into a task. Absent means: its default in a new task, kept in an old one. Null clears. */
export interface TaskFields {
  title: string;
  description?: string | null;
  completed?: boolean;
  priority?: Priority | null;
  /** A calendar date, `YYYY-MM-DD`: no zone, never converted. */
  due_date?: string | null;
  /** Wall-clock time of that date, `HH:MM`. */
  due_time?: string | null;
  /** Wall-clock time, `YYYY-MM-DDTHH:MM`, for the client to show. */
  remind_at?: string | null;
  tags?: string[];
  /** An RFC 5545 rule, `FREQ=WEEKLY;BYDAY=MO`. */
  recurrence?: string | null;
  position?: number;
}

export interface Task extends Required<TaskFields> {
  /** A UUID version 7: greater is newer. */
  id: string;
  created_at: string;
  updated_at: string;
  completed_at: string | null;
  deleted_at?: string; // of a task in the trash
  /** What `ifMatch` takes. */
  etag: string;
}

export interface Filters {
  completed?: boolean;
  search?: string;
  /** All of these. */
  tag?: string[];
  /** At least one of these. */
  tag_any?: string[];
  priority?: (Priority | "none")[];
  due_from?: string;
  due_to?: string;
  due?: "none";
}

export interface Query extends Filters {
  /** One to three keys, comma-separated, `due_date,priority`; `order` has as many of `asc` and `desc`. */
  sort?: string;
  order?: string;
  limit?: number;
  skip?: number;
  cursor?: string; // a page's `next`
  count?: true; // asks for the page's `total`
  deleted?: true; // the trash
}

export interface Page {
  tasks: Task[];
  /** The cursor of the page that follows, null after the last one. */
  next: string | null;
  /** Null without `count`. */
  total: number | null;
}

export type Counts = { total: number; completed: number; active: number };
export type Tag = { tag: string; count: number };
export type Change = Task | { id: string; deleted: true };

export interface Changes {
  changes: Change[];
  /** Keep it: the next call takes it, and returns what has changed since. */
  checkpoint: string;
  /** True where the checkpoint had expired: what the replica has is void, and these changes are everything. */
  anew: boolean;
}

export interface Operation {
  op: "put" | "patch" | "delete" | "toggle" | "restore";
  id: string;
  task?: Partial<TaskFields>;
  /** Only if the task still has this `etag`. */
  if_match?: string;
  /** With `put`: create, do not change. */
  if_none_match?: "*";
}

export interface Result {
  id: string;
  status: number;
  task?: Task; // as it is after the operation
  problem?: ProblemDocument; // why it was refused
}

/** What `follow` returns. */
export interface Follower {
  /** Push these, when it is their turn, and apply what has changed. */
  exchange(operations: Operation[], results?: Result[]): Promise<Result[]>;
  /** End all that waits, at once. */
  stop(): void;
}

export type FieldProblem = { source: string; pointer: string; code: string; detail: string };

export interface ProblemDocument {
  status: number; code: string; detail: string;
  request_id?: string;
  errors?: FieldProblem[] | null;
  current?: Task | null;
}

/** The API refused, or could not. `detail` is a sentence to show, `code` is stable, to decide by. */
export class TasksError extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  /** Names the request in the service's log; null where none was sent. */
  readonly requestId: string | null;
  /** With status 422: which field breaks which rule. */
  readonly errors: FieldProblem[];
  /** With status 412: the task as it is now. */
  readonly current: Task | null;
  /** How many seconds the service asks to wait; 0 where it does not. */
  readonly retryAfter: number;

  constructor(problem: ProblemDocument, retryAfter = 0) {
    super(problem.detail);
    this.name = "TasksError";
    this.status = problem.status;
    this.code = problem.code;
    this.detail = problem.detail;
    this.requestId = problem.request_id || null;
    this.errors = problem.errors ?? [];
    this.current = problem.current ?? null;
    this.retryAfter = retryAfter;
  }

  /** Whether the API would refuse the same request again. */
  get isFinal(): boolean {
    const isSaidByTheApi = this.code !== "not_the_api"; // what a captive portal says is no refusal
    return (isSaidByTheApi || BY_CONTENT.has(this.status)) && this.status !== 401 && !passes(this);
  }
}

let lastTime = 0;

/** Make a UUID version 7 (RFC 9562): 48 bits of time, the rest by chance. One that is made later is greater. */
export function uuid7(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const chance = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  lastTime = Math.max(Date.now(), lastTime + 1); // no millisecond twice, also where the clock is set back
  const time = lastTime.toString(16).padStart(12, "0");
  const variant = "89ab".charAt(bytes[15]! & 3); // the two bits that the RFC fixes, and two by chance
  const rest = `${variant}${chance.slice(3, 6)}-${chance.slice(6, 18)}`;
  return `${time.slice(0, 8)}-${time.slice(8)}-7${chance.slice(0, 3)}-${rest}`;
}

/** The operation that makes of a task what it is now: of one that was known before, only the fields that differ. */
export function operationOf({ deleted, ...now }: Task & { deleted?: boolean }, before?: Task): Operation {
  if (deleted) return { op: "delete", id: now.id };
  const differing = Object.entries(now).filter(([name, value]) => !isEqual(value, before?.[name as keyof Task]));
  return { op: before ? "patch" : "put", id: now.id, task: Object.fromEntries(differing) };
}

const MAX_ATTEMPTS = 3; // of a request that is not patient
const MAX_PAUSE = 15; // seconds between attempts: longer only where the service asks a patient request to wait
const MAX_RETRY_AFTER = 3600; // seconds: a timer of months, which a proxy may ask for, would end at once
const MAX_SILENCE = 60_000; // milliseconds without a byte, after which a request is given up
const MAX_SEEN = 20; // responses that are kept, to be revalidated
/** With these nothing was done, and any request can be sent again; with others that pass, one that may run twice. */
const NOT_DONE = new Set(["database_unavailable", "overloaded", "issuer_unavailable", "too_many_requests"]);
/** With these one change is refused for what is in it, also by a proxy or a firewall; a captive portal has others. */
const BY_CONTENT = new Set([403, 406, 413, 422]);

interface Waiting {
  signal?: AbortSignal | undefined;
  /** Send the request again until the service is reached, however long that takes. */
  patient?: boolean;
}

/** Where the condition does not hold, the status is 412. */
interface WriteOptions extends Waiting {
  /** Write only if the task still has this `etag`. */
  ifMatch?: string | undefined;
  /** Create, do not change. */
  ifNoneMatch?: "*";
}

type Sending = Waiting & { mayRunTwice: boolean };
type BatchOptions = Waiting & { atomic?: boolean };
/** `ids`: of the tasks that are written, and of what they are moved by. */
type Write = { ids: string[]; body?: object; options?: WriteOptions; mayRunTwice?: boolean };
type SentRequest = { method: string; headers?: Record<string, string> | undefined; body?: string | null };
type ReceivedResponse<T> = { status: number; headers: Headers; body: T };

/** What belongs to one user, and is thrown away as a whole. */
class Session {
  readonly id = uuid7();
  readonly ended = new AbortController();
  /** The last responses with an ETag, by their address, oldest first. */
  readonly seen = new Map<string, ReceivedResponse<unknown>>();
  /** By a task's id: when what was asked of it so far is over. */
  readonly turns = new Map<string, Promise<void>>();
  user: string | null = null;
  token: Promise<string> | null = null;
}

export class TasksClient {
  #session = new Session();
  readonly #base: string;
  readonly #getToken: () => Promise<string | null>;

  /**
   * `getToken` returns a new JWT of the signed-in user, or null for nobody. It is called when a token is first needed
   * and when one was refused, once for all requests that wait for it.
   */
  constructor(base: string, getToken: () => Promise<string | null>) {
    this.#base = base.replace(/\/$/, "");
    this.#getToken = getToken;
  }

  /** Drop the token and all that was read with it, and abort what is under way. For sign-in and sign-out. */
  forget(reason: unknown = new DOMException("The session has ended.", "AbortError")): void {
    this.#session.ended.abort(reason);
    this.#session = new Session();
  }

  /** Aborted when the session ends: what waits to be sent must not be sent as the next user's. */
  get ended(): AbortSignal {
    return this.#session.ended.signal;
  }

  /** Say who is signed in (the tokens' `sub`), or null for nobody: what is somebody else's is forgotten. */
  expect(user: string | null): void {
    if (this.#session.user !== null && this.#session.user !== user) this.forget();
    this.#session.user = user;
  }

  /** Fetch a token if there is none, and say whose it is: its `sub`. */
  async user(): Promise<string> {
    const session = this.#session;
    await this.#token(session);
    session.ended.signal.throwIfAborted();
    return session.user!;
  }

  async list(query: Query = {}, signal?: AbortSignal): Promise<Page> {
    const { body, headers } = await this.#read<Task[]>(`/api/tasks${search(query)}`, { signal });
    const total = headers.get("X-Total-Count");
    return { tasks: body, next: headers.get("X-Next-Cursor"), total: total === null ? null : Number(total) };
  }

  /** All pages, one after the other: `for await (const { tasks } of client.pages({ completed: false }))`. */
  async *pages(query: Query = {}, signal?: AbortSignal): AsyncGenerator<Page, void> {
    const own = either(this.ended, signal); // the next page must not be another user's
    let page = await this.list(query, own);
    yield page;
    const { skip: _, ...rest } = query; // the cursor knows what was skipped
    while (page.next !== null) {
      page = await this.list({ ...rest, cursor: page.next }, own);
      yield page;
    }
  }

  /** What TanStack Query's `useInfiniteQuery` takes. The key changes with the session: no cache crosses users. */
  infiniteQuery(query: Omit<Query, "cursor" | "skip"> = {}) {
    const { ended } = this;
    return {
      queryKey: ["tasks", this.#session.id, query] as const,
      queryFn: ({ pageParam, signal }: { pageParam: string | null; signal: AbortSignal }): Promise<Page> =>
        this.list(pageParam === null ? query : { ...query, cursor: pageParam }, either(ended, signal)),
      initialPageParam: null as string | null,
      getNextPageParam: (page: Page): string | null => page.next,
    };
  }

  async get(id: string, signal?: AbortSignal): Promise<Task> {
    return (await this.#read<Task>(path(id), { signal })).body;
  }

  async stats(filters: Filters = {}): Promise<Counts> {
    return (await this.#read<Counts>(`/api/tasks/stats${search(filters)}`)).body;
  }

  async tags(): Promise<Tag[]> {
    return (await this.#read<Tag[]>("/api/tasks/tags")).body;
  }

  /** Create a task under an id made here: sending it twice makes one task, and changes nothing that came between. */
  create(task: TaskFields, id: string = uuid7()): Promise<Task> {
    return this.put(id, task, { ifNoneMatch: "*" });
  }

  /** Create the task, or change the fields that are given. */
  put(id: string, task: Partial<TaskFields>, options: WriteOptions = {}): Promise<Task> {
    return this.#write<Task>("PUT", path(id), { ids: [id], body: task, options });
  }

  update(id: string, changes: Partial<TaskFields>, options: WriteOptions = {}): Promise<Task> {
    return this.#write<Task>("PATCH", path(id), { ids: [id], body: changes, options });
  }

  toggle(id: string, options: WriteOptions = {}): Promise<Task> {
    return this.#write<Task>("POST", path(id, "/toggle"), { ids: [id], options });
  }

  /** Move a task in the manual order (`sort=position`): after all that was asked of the place where it goes. */
  move(id: string, to: { before: string } | { after: string } | { to: "first" | "last" }): Promise<Task> {
    return this.#write<Task>("POST", path(id, "/move"), { ids: [id, ...Object.values(to)], body: to, mayRunTwice: true });
  }

  async delete(id: string, options: WriteOptions = {}): Promise<void> {
    await this.#write<null>("DELETE", path(id), { ids: [id], options });
  }

  /** Take a task out of the trash. */
  restore(id: string): Promise<Task> {
    return this.#write<Task>("POST", path(id, "/restore"), { ids: [id] });
  }

  /** Up to 100 operations: all or nothing, or, with `atomic: false`, each for itself with a status of its own. */
  batch(operations: Operation[], options: BatchOptions = {}): Promise<Result[]> {
    return this.#batch(operations, operations.map(({ id }) => id), options);
  }

  /** Send a batch after all that was asked of the tasks with these ids before. */
  async #batch(operations: Operation[], ids: string[], { atomic = true, ...options }: BatchOptions): Promise<Result[]> {
    const mayRunTwice = operations.every(({ op, if_match }) => {
      // What is refused the second time must not make an atomic batch that was done look refused.
      if (if_match !== undefined || op === "delete") return !atomic;
      return op === "put" || op === "patch";
    });
    const body = { operations, atomic };
    const write = { ids, body, options, mayRunTwice };
    return (await this.#write<{ results: Result[] }>("POST", path("batch"), write)).results;
  }

  /** Up to 100 changes made offline, in order, each for itself. Where this rejects, `results` has those of the first ones. */
  push(operations: Operation[], waiting: Waiting = {}, results: Result[] = []): Promise<Result[]> {
    if (operations.length === 0) return Promise.resolve(results);
    const ids = operations.map(({ id }) => id);
    return this.#inTurn(ids, waiting.signal, (signal) => this.#push(operations, { ...waiting, signal }, results));
  }

  async #push(operations: Operation[], waiting: Waiting, results: Result[]): Promise<Result[]> {
    try {
      const pushed = await this.#batch(operations, [], { ...waiting, atomic: false }); // it is their turn already
      pushed.forEach((result, index) => {
        const { id, problem } = result;
        const isGone = operations[index]!.op === "delete" && problem?.status === 404;
        if (isGone) results.push({ id, status: 204 }); // as it was meant to be, perhaps by an attempt before
        else if (problem) results.push({ ...result, problem: ofOneTask(problem) });
        else results.push(result);
      });
    } catch (error) {
      if (!(error instanceof TasksError && BY_CONTENT.has(error.status))) throw error;
      if (operations.length === 1) {
        results.push({ id: operations[0]!.id, status: error.status, problem: ofOneTask(error) });
        return results;
      }
      // One that cannot be read is no reason to refuse the others.
      for (const operation of operations) await this.#push([operation], waiting, results);
    }
    return results;
  }

  /** What has changed since a checkpoint; without one, everything. A replica that applies it has what the service has. */
  async changes(since: string | null = null, limit = 500, waiting: Waiting = {}): Promise<Changes> {
    const own = { ...waiting, signal: either(this.ended, waiting.signal) }; // the next page must not be another user's
    const changes = new Map<string, Change>();
    let anew = false;
    for (let more = true; more; ) {
      try {
        const path = `/api/tasks/changes${search({ since, limit })}`;
        const { body: page } = await this.#read<Omit<Changes, "anew"> & { more: boolean }>(path, own);
        for (const change of page.changes) changes.set(change.id, change);
        since = page.checkpoint;
        more = page.more;
      } catch (error) {
        if (since === null || !(error instanceof TasksError && error.code === "checkpoint_expired")) throw error;
        since = null;
        anew = true;
        changes.clear();
      }
    }
    return { changes: [...changes.values()], checkpoint: since!, anew };
  }

  /**
   * Keep a replica in step until the session ends: apply what has changed, every so many milliseconds. What passes, such
   * as having no network, is waited for. What does not, or is thrown by `apply`, is given to `onError`, and ends it.
   */
  follow(apply: (changes: Changes) => unknown, onError: (error: unknown) => unknown, every = 10_000): Follower {
    const stopping = new AbortController();
    const signal = either(this.ended, stopping.signal); // what is sent later would be sent as the next user's
    const waiting = { signal, patient: true };
    let checkpoint: string | null = null;
    let turn: Promise<unknown> = Promise.resolve();

    const end = (error: unknown) => {
      if (signal.aborted) return;
      stopping.abort(error);
      onError(error);
    };
    const read = async () => {
      const found = await this.changes(checkpoint, 500, waiting);
      await apply(found);
      checkpoint = found.checkpoint; // what could not be applied is read again
    };
    const exchange = (operations: Operation[], results: Result[] = []): Promise<Result[]> => {
      const exchanged = turn.then(async () => {
        if (operations.length === 0) {
          await read();
          return [];
        }
        await this.push(operations, waiting, results);
        await read().catch(end); // what was pushed is done, whatever becomes of this
        return results;
      });
      turn = exchanged.catch(() => undefined);
      return exchanged;
    };
    const goOn = async () => {
      for (;;) {
        await exchange([]);
        await pause(every / 1000, signal);
      }
    };

    goOn().catch(end);
    return { exchange, stop: () => stopping.abort() };
  }

  async #read<T>(path: string, options: Waiting = {}): Promise<ReceivedResponse<T>> {
    const { seen } = this.#session; // of the user who asks: by the time of the response it may be another's turn
    const known = seen.get(path) as ReceivedResponse<T> | undefined;
    const headers = known && { "If-None-Match": known.headers.get("ETag")! };
    const received = await this.#send<T>(path, { method: "GET", headers }, { ...options, mayRunTwice: true });
    if (received.status === 304 && known) return copyOf(known);
    seen.delete(path); // what is set anew is the newest
    if (received.headers.has("ETag")) seen.set(path, copyOf(received)); // who asks may change what it gets
    if (seen.size > MAX_SEEN) seen.delete(seen.keys().next().value!); // the oldest
    return received;
  }

  async #write<T>(method: string, path: string, write: Write): Promise<T> {
    const { ids, options = {}, mayRunTwice = method !== "POST" } = write;
    const body = write.body === undefined ? null : JSON.stringify(write.body); // as it is now, not in its turn
    const headers = {
      ...(body !== null && { "Content-Type": "application/json" }),
      ...(options.ifMatch !== undefined && { "If-Match": `"${options.ifMatch}"` }),
      ...(options.ifNoneMatch && { "If-None-Match": options.ifNoneMatch }),
    };
    const send = (signal: AbortSignal) =>
      this.#send<T>(path, { method, headers, body }, { ...options, signal, mayRunTwice });
    return (await this.#inTurn(ids, options.signal, send)).body;
  }

  /** Write after all that was asked of these tasks before, which may have to be sent again: the newest comes last. */
  #inTurn<T>(ids: string[], signal: AbortSignal | undefined, write: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { turns, ended } = this.#session;
    const own = either(ended.signal, signal); // its turn may come in another user's session
    const before = Promise.all(ids.map((id) => turns.get(id)));
    const written = until(before, own).then(() => write(own));
    // A write that was given up before its turn ends no turn: those that follow it must not pass those before it.
    const turn: Promise<void> = Promise.allSettled([before, written]).then(() => {
      for (const id of ids) if (turns.get(id) === turn) turns.delete(id);
    });
    for (const id of ids) turns.set(id, turn);
    return written;
  }

  /** Send a request: once more with a new token after a 401, and again, after a pause, where that cannot do harm. */
  async #send<T>(path: string, request: SentRequest, options: Sending): Promise<ReceivedResponse<T>> {
    const session = this.#session;
    const signal = either(session.ended.signal, options.signal);
    let attempt = 1;
    let refused = false; // this attempt's first token
    let mayHaveRun = false; // in an attempt before
    for (;;) {
      const silence = new AbortController();
      let isSent = false;
      try {
        const token = this.#token(session);
        const authorization = `Bearer ${await until(token, signal)}`;
        isSent = true;
        const fetching = fetch(this.#base + path, {
          ...request,
          headers: { ...request.headers, Authorization: authorization },
          cache: "no-store", // a browser's cache knows no users
          signal: either(signal, silence.signal),
        });
        const response = await unlessSilent(fetching, silence);
        if (response.status !== 401 || refused) return await until(received<T>(response, silence), signal);
        refused = true;
        if (session.token === token) session.token = null; // else another request has fetched a new one already
      } catch (error) {
        const problem = error instanceof TasksError ? error : null; // without one: offline, or cut off on the way
        const done = mayHaveRun && problem ? doneBefore(request, problem) : undefined;
        if (done !== undefined) return { status: 200, headers: new Headers(), body: done as T };
        const isNotDone = NOT_DONE.has(problem?.code ?? "");
        // A captive portal, or a proxy in the service's place.
        const isAway = options.patient && problem?.code === "not_the_api" && !problem.isFinal;
        const isHarmless = isNotDone || (options.mayRunTwice && (problem === null || isAway || passes(problem)));
        if (signal.aborted || !isHarmless) throw error;
        const wait = Math.max(Math.min(attempt, MAX_PAUSE), problem?.retryAfter ?? 0);
        if (!options.patient && (attempt === MAX_ATTEMPTS || wait > MAX_PAUSE)) throw error;
        attempt += 1;
        refused = false;
        mayHaveRun ||= isSent && !isNotDone; // without a token nothing is sent
        await pause(wait, signal);
      }
    }
  }

  /** The session's token, fetched once for all who wait for it. Raises `TasksError` where nobody is signed in. */
  #token(session: Session): Promise<string> {
    session.token ??= this.#getToken().then((token) => {
      if (!token) throw new TasksError({ status: 401, code: "token_missing", detail: "Sign in first." });
      const user = subject(token);
      if (session.user !== null && session.user !== user) {
        // Another user has signed in meanwhile: what was asked for one must not be done as the other.
        const changed = new TasksError({ status: 401, code: "user_changed", detail: "Another user has signed in." });
        if (session === this.#session) this.forget(changed);
        throw changed;
      }
      session.user = user;
      return token;
    });
    const fetching = session.token;
    fetching.catch(() => {
      if (session.token === fetching) session.token = null; // the next request tries again
    });
    return fetching;
  }
}

/** Whether a problem is one of the moment. */
const passes = ({ status }: ProblemDocument) => status >= 500 || status === 408 || status === 429;
/** Whether two values are one in JSON. */
const isEqual = (one: unknown, other: unknown) => JSON.stringify(one) === JSON.stringify(other);
const path = (id: string, action = "") => `/api/tasks/${encodeURIComponent(id)}${action}`;
const copyOf = <T>(response: ReceivedResponse<T>) => ({ ...response, body: structuredClone(response.body) });

/** A signal that aborts with the first of two. */
function either(one: AbortSignal, other: AbortSignal | undefined): AbortSignal {
  return other === undefined ? one : AbortSignal.any([one, other]);
}

/** Tell a problem of an operation as a request of its own would have it: `title: …`, not `operations.3.task.title: …`. */
function ofOneTask(problem: ProblemDocument): ProblemDocument {
  return Object.assign(problem, {
    detail: problem.detail.replace(/^operations\.\d+\.(task\.)?/, ""),
    errors: (problem.errors ?? []).map((error) => ({
      ...error,
      pointer: error.pointer.replace(/^\/operations\/\d+(\/task)?/, ""),
    })),
  });
}

/** What an attempt before has done, as the refusal of the next one tells; undefined where it does not. */
function doneBefore({ method, headers, body }: SentRequest, { code, current }: TasksError): Task | null | undefined {
  if (method === "DELETE" && code === "task_not_found") return null;
  if (current === null) return undefined; // this refusal is no 412
  if (headers?.["If-None-Match"]) return current; // the task is there: it was made by the attempt before
  if (!body) return undefined; // nothing tells a toggle from somebody else's
  const sent = Object.entries(JSON.parse(body) as object);
  return sent.every(([name, value]) => isEqual(value, current[name as keyof Task])) ? current : undefined;
}

function search(query: object): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    // A list gives its name to each of its values; what is null or undefined is left out.
    for (const one of [value ?? []].flat()) parameters.append(name, String(one));
  }
  const text = parameters.toString();
  return text && `?${text}`;
}

/** Whose token it is: its `sub`, unverified, which is the service's business. */
function subject(token: string): string {
  const claims = token.split(".")[1]?.replaceAll("-", "+").replaceAll("_", "/") ?? "";
  try {
    const bytes = Uint8Array.from(atob(claims), (character) => character.charCodeAt(0));
    return String((JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown }).sub);
  } catch {
    throw new TasksError({ status: 401, code: "token_invalid", detail: "This is not a token." });
  }
}

/** What a response holds. Raises `TasksError` where that is a problem. */
async function received<T>(response: Response, silence: AbortController): Promise<ReceivedResponse<T>> {
  const { status, headers } = response;
  if (status === 204 || status === 304) return { status, headers, body: null as T };
  if (response.ok) return { status, headers, body: await json<T>(response, silence) };
  const isProblem = headers.get("Content-Type")?.startsWith("application/problem+json");
  const problem = isProblem ? await json<ProblemDocument>(response, silence) : null;
  const other = { status, code: "not_the_api", detail: "Something other than the tasks API has answered." };
  const retryAfter = Number(headers.get("Retry-After")) || 0; // a proxy may send a date: as if it had sent none
  // A gateway's problems have no code.
  throw new TasksError(problem?.code ? problem : other, Math.min(retryAfter, MAX_RETRY_AFTER));
}

/** Read a response, however slowly it comes. */
async function json<T>({ body }: Response, silence: AbortController): Promise<T> {
  const reader = body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await unlessSilent(reader.read(), silence);
    if (done) return JSON.parse(text) as T;
    text += value;
  }
}

/** What a promise brings, or a `TimeoutError`, which gives its request up, where that takes a minute. */
function unlessSilent<T>(promise: Promise<T>, silence: AbortController): Promise<T> {
  // Not `AbortSignal.timeout`: Node.js 20 has one that only an `AbortSignal.any` holds collected before its time.
  const timer = setTimeout(() => {
    silence.abort(new DOMException("Nothing has arrived for a minute.", "TimeoutError"));
  }, MAX_SILENCE);
  return until(promise, silence.signal).finally(() => clearTimeout(timer));
}

/** What a promise brings, or the signal's reason where that aborts before. */
function until<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    if (signal.aborted) end();
    else signal.addEventListener("abort", end);
    promise.finally(() => signal.removeEventListener("abort", end)).then(resolve, reject);
  });
}

/** Wait so many seconds, and up to a half more: clients that failed together should not come back together. */
async function pause(seconds: number, signal: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, seconds * 1000 * (1 + Math.random() / 2));
  });
  await until(over, signal).finally(() => clearTimeout(timer));
}

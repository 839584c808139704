/**
 * A client of the tasks API in one file, to be copied into a frontend. Strict TypeScript, no dependency; for browsers
 * since 2024 and Node.js since 20. tasks.js is this file compiled, for who has no compiler.
 *
 * One `TasksClient` belongs to one session. The token, the ETags and the requests under way live in it alone, so that
 * after `forget()` the next user of the page sees nothing of the one before. The README shows how Better Auth's client
 * tells it of sign-ins and sign-outs. On a server, each request needs its own: a shared one would mix users up.
 */
/** The API refused, or could not. `detail` is a sentence to show, `code` is stable, to decide by. */
export class TasksError extends Error {
    status;
    code;
    detail;
    /** Names the request in the service's log; null where none was sent. */ requestId;
    /** With status 422: which field breaks which rule. */ errors;
    /** With status 412: the task as it is now. */ current;
    retryAfter; // seconds; 0 where the service does not ask to wait
    constructor({ status, code, detail, request_id = "", errors, current }, retryAfter = 0) {
        super(detail);
        [this.name, this.status, this.code, this.detail] = ["TasksError", status, code, detail];
        [this.requestId, this.errors, this.current, this.retryAfter] = [request_id || null, errors ?? [], current ?? null, retryAfter];
    }
    /** Whether the API would refuse the same request again. */
    get isFinal() {
        return (this.code !== "not_the_api" || BY_CONTENT.has(this.status)) && this.status !== 401 && !passes(this);
    }
}
let lastTime = 0;
/** Make a UUID version 7 (RFC 9562): 48 bits of time, the rest by chance. One that is made later is greater. */
export function uuid7() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const chance = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    lastTime = Math.max(Date.now(), lastTime + 1); // no millisecond twice
    const time = lastTime.toString(16).padStart(12, "0");
    const rest = `${"89ab".charAt(bytes[15] & 3)}${chance.slice(3, 6)}-${chance.slice(6, 18)}`;
    return `${time.slice(0, 8)}-${time.slice(8)}-7${chance.slice(0, 3)}-${rest}`;
}
/** The operation that makes of a task what it is now: of one that was known before, only the fields that differ. */
export function operationOf({ deleted, ...now }, before) {
    const differs = ([name, value]) => JSON.stringify(value) !== JSON.stringify(before?.[name]);
    const task = Object.fromEntries(Object.entries(now).filter(differs));
    return deleted ? { op: "delete", id: now.id } : { op: before ? "patch" : "put", id: now.id, task };
}
const ATTEMPTS = 3;
const MAX_PAUSE = 15; // seconds between attempts: longer only where the service asks a patient request to wait
const KEPT = 20;
/** With these nothing was done, and any request can be sent again; with others that pass, one that may run twice. */
const NOT_DONE = new Set(["database_unavailable", "overloaded", "issuer_unavailable", "too_many_requests"]);
/** With these one change is refused for what is in it, also by a proxy or a firewall; a captive portal has others. */
const BY_CONTENT = new Set([403, 406, 413, 422]);
const passes = ({ status }) => status >= 500 || status === 408 || status === 429;
/** What belongs to one user, and is thrown away as a whole. */
class Session {
    id = uuid7();
    ended = new AbortController();
    seen = new Map();
    turns = new Map(); // by a task's id: when what was asked of it so far is over
    user = null;
    token = null;
}
export class TasksClient {
    #session = new Session();
    #base;
    #getToken;
    /**
     * `getToken` returns a new JWT of the signed-in user, or null for nobody. It is called when a token is first needed
     * and when one was refused, once for all requests that wait for it.
     */
    constructor(base, getToken) {
        this.#base = base.replace(/\/$/, "");
        this.#getToken = getToken;
    }
    /** Drop the token and all that was read with it, and abort what is under way. For sign-in and sign-out. */
    forget(reason = new DOMException("The session has ended.", "AbortError")) {
        this.#session.ended.abort(reason);
        this.#session = new Session();
    }
    /** Aborted when the session ends: what waits to be sent must not be sent as the next user's. */
    get ended() {
        return this.#session.ended.signal;
    }
    /** Say who is signed in (the tokens' `sub`), or null for nobody: what is somebody else's is forgotten. */
    expect(user) {
        if (this.#session.user !== null && this.#session.user !== user)
            this.forget();
        this.#session.user = user;
    }
    /** Fetch a token if there is none, and say whose it is: its `sub`. */
    async user() {
        const session = this.#session;
        await this.#token(session);
        session.ended.signal.throwIfAborted();
        return session.user;
    }
    async list(query = {}, signal) {
        const { body, headers } = await this.#read(`/api/tasks${search(query)}`, { signal });
        const total = headers.get("X-Total-Count");
        return { tasks: body, next: headers.get("X-Next-Cursor"), total: total === null ? null : Number(total) };
    }
    /** All pages, one after the other: `for await (const { tasks } of client.pages({ completed: false }))`. */
    async *pages(query = {}, signal) {
        const own = AbortSignal.any([this.ended, signal ?? []].flat()); // the next page must not be another user's
        let page = await this.list(query, own);
        yield page;
        const { skip: _, ...rest } = query;
        while (page.next !== null)
            yield (page = await this.list({ ...rest, cursor: page.next }, own));
    }
    /** What TanStack Query's `useInfiniteQuery` takes. The key changes with the session: no cache crosses users. */
    infiniteQuery(query = {}) {
        const { ended } = this;
        return {
            queryKey: ["tasks", this.#session.id, query],
            queryFn: ({ pageParam, signal }) => this.list(pageParam === null ? query : { ...query, cursor: pageParam }, AbortSignal.any([signal, ended])),
            initialPageParam: null,
            getNextPageParam: (page) => page.next,
        };
    }
    async get(id, signal) {
        return (await this.#read(path(id), { signal })).body;
    }
    async stats(filters = {}) {
        return (await this.#read(`/api/tasks/stats${search(filters)}`)).body;
    }
    async tags() {
        return (await this.#read("/api/tasks/tags")).body;
    }
    /** Create a task under an id made here: sending it twice makes one task, and changes nothing that came between. */
    create(task, id = uuid7()) {
        return this.put(id, task, { ifNoneMatch: "*" });
    }
    /** Create the task, or change the fields that are given. */
    put(id, task, options = {}) {
        return this.#write([{ id }], "PUT", path(id), { ...options, body: task });
    }
    update(id, changes, options = {}) {
        return this.#write([{ id }], "PATCH", path(id), { ...options, body: changes });
    }
    toggle(id, options = {}) {
        return this.#write([{ id }], "POST", path(id, "/toggle"), options);
    }
    /** Move a task in the manual order (`sort=position`). */
    move(id, to) {
        return this.#write([{ id }], "POST", path(id, "/move"), { body: to }, true);
    }
    async delete(id, options = {}) {
        await this.#write([{ id }], "DELETE", path(id), options);
    }
    /** Take a task out of the trash. */
    restore(id) {
        return this.#write([{ id }], "POST", path(id, "/restore"));
    }
    /** Up to 100 operations: all or nothing, or, with `atomic: false`, each for itself with a status of its own. */
    async batch(operations, { atomic = true, ...options } = {}, after = operations) {
        const mayRunTwice = ({ op, if_match }) => op === "put" || op === "patch" || (!atomic && (op === "delete" || if_match !== undefined));
        const write = { ...options, body: { operations, atomic } };
        return (await this.#write(after, "POST", path("batch"), write, operations.every(mayRunTwice))).results;
    }
    /** Up to 100 changes made offline, in order, each for itself. Where this rejects, `results` has those of the first ones. */
    push(operations, waiting = {}, results = []) {
        return this.#inTurn(operations, waiting.signal, (signal) => this.#push(operations, { ...waiting, signal }, results));
    }
    async #push(operations, waiting, results) {
        try {
            const pushed = await this.batch(operations, { atomic: false, ...waiting }, []); // whose turn it is
            for (const { problem } of pushed)
                if (problem)
                    alone(problem);
            const isGone = ({ problem }, at) => operations[at].op === "delete" && problem?.status === 404;
            results.push(...pushed.map((result, at) => (isGone(result, at) ? { id: result.id, status: 204 } : result)));
        }
        catch (error) {
            if (!(error instanceof TasksError && BY_CONTENT.has(error.status)))
                throw error;
            // One that cannot be read is no reason to refuse the others.
            if (operations.length > 1)
                for (const operation of operations)
                    await this.#push([operation], waiting, results);
            else
                results.push({ id: operations[0].id, status: error.status, problem: alone(error) });
        }
        return results;
    }
    /** What has changed since a checkpoint; without one, everything. A replica that applies it has what the service has. */
    async changes(since = null, limit = 500, waiting = { signal: this.ended }) {
        const changes = new Map();
        let anew = false;
        for (let more = true; more;) {
            try {
                const path = `/api/tasks/changes${search({ since, limit })}`;
                const { body: page } = await this.#read(path, waiting);
                for (const change of page.changes)
                    changes.set(change.id, change);
                ({ checkpoint: since, more } = page);
            }
            catch (error) {
                if (since === null || !(error instanceof TasksError && error.code === "checkpoint_expired"))
                    throw error;
                [since, anew] = [null, true];
                changes.clear();
            }
        }
        return { changes: [...changes.values()], checkpoint: since, anew };
    }
    /**
     * Keep a replica in step until the session ends: apply what has changed, every so many milliseconds. What passes, such
     * as having no network, is waited for. What does not, or is thrown by `apply`, is given to `onError`, and ends it.
     */
    follow(apply, onError, every = 10_000) {
        const stopping = new AbortController();
        const signal = AbortSignal.any([this.ended, stopping.signal]); // what is sent later would be sent as the next user's
        let [checkpoint, turn] = [null, Promise.resolve()];
        const end = (error) => signal.aborted || (stopping.abort(error), onError(error));
        const read = async () => {
            const found = await this.changes(checkpoint, 500, { signal, patient: true });
            await apply(found);
            ({ checkpoint } = found);
        };
        const exchange = (operations, results = []) => {
            const exchanged = turn.then(async () => {
                if (operations.length === 0)
                    return read().then(() => []);
                await this.push(operations, { signal, patient: true }, results);
                await read().catch(end); // what was pushed is done, whatever becomes of this
                return results;
            });
            turn = exchanged.catch(() => undefined);
            return exchanged;
        };
        const goOn = async () => { for (;; await pause(every / 1000, signal))
            await exchange([]); };
        goOn().catch(end);
        return { exchange, stop: () => stopping.abort() };
    }
    async #read(path, options = {}) {
        const { seen } = this.#session; // of the user who asks: by the time of the response it may be another's turn
        const known = seen.get(path);
        const request = { method: "GET", headers: known && { "If-None-Match": known.headers.get("ETag") } };
        const received = await this.#send(path, request, options, true);
        if (received.status === 304 && known)
            return copied(known);
        seen.delete(path);
        if (received.headers.has("ETag"))
            seen.set(path, copied(received)); // who asks may change what it gets
        if (seen.size > KEPT)
            seen.delete(seen.keys().next().value); // the oldest
        return received;
    }
    async #write(tasks, method, path, options = {}, repeatable = method !== "POST") {
        const body = options.body === undefined ? null : JSON.stringify(options.body); // as it is now
        const headers = {
            ...(body !== null && { "Content-Type": "application/json" }),
            ...(options.ifMatch !== undefined && { "If-Match": `"${options.ifMatch}"` }),
            ...(options.ifNoneMatch && { "If-None-Match": options.ifNoneMatch }),
        };
        const send = (signal) => this.#send(path, { method, headers, body }, { ...options, signal }, repeatable);
        return (await this.#inTurn(tasks, options.signal, send)).body;
    }
    /** Write after all that was asked of these tasks before, which may have to be sent again: the newest comes last. */
    #inTurn(tasks, signal, write) {
        const { turns, ended } = this.#session;
        const own = AbortSignal.any([ended.signal, signal ?? []].flat()); // its turn may come in another user's session
        const ids = tasks.map(({ id }) => id);
        const before = Promise.all(ids.map((id) => turns.get(id)));
        const written = until(before, own).then(() => write(own));
        const end = () => ids.forEach((id) => turns.get(id) === turn && turns.delete(id));
        const turn = Promise.allSettled([before, written]).then(end);
        ids.forEach((id) => turns.set(id, turn));
        return written;
    }
    /** Send a request: once more with a new token after a 401, and again, after a pause, where that cannot do harm. */
    async #send(path, request, options, repeatable) {
        const session = this.#session;
        const signal = AbortSignal.any([session.ended.signal, options.signal ?? []].flat());
        for (let [attempt, refused, mayHaveRun] = [1, false, false];;) {
            const silence = new AbortController();
            try {
                const token = this.#token(session);
                const authorization = `Bearer ${await until(token, signal)}`;
                const fetching = fetch(this.#base + path, {
                    ...request, headers: { ...request.headers, Authorization: authorization }, cache: "no-store",
                    signal: AbortSignal.any([signal, silence.signal]),
                });
                const response = await unlessSilent(fetching, silence);
                if (response.status !== 401 || refused)
                    return await until(received(response, silence), signal);
                refused = true;
                if (session.token === token)
                    session.token = null; // else another request has fetched a new one already
            }
            catch (error) {
                const problem = error instanceof TasksError ? error : null; // without one: offline, or cut off on the way
                const done = mayHaveRun && problem ? doneBefore(request, problem) : undefined;
                if (done !== undefined)
                    return { status: 200, headers: new Headers(), body: done };
                const isNotDone = NOT_DONE.has(problem?.code ?? "");
                const isAway = options.patient && problem?.code === "not_the_api" && !problem.isFinal; // a captive portal, or a proxy
                const harmless = isNotDone || (repeatable && (problem === null || isAway || passes(problem)));
                const wait = Math.max(Math.min(attempt, MAX_PAUSE), problem?.retryAfter ?? 0);
                if (signal.aborted || !harmless || (!options.patient && (attempt === ATTEMPTS || wait > MAX_PAUSE)))
                    throw error;
                [attempt, refused, mayHaveRun] = [attempt + 1, false, mayHaveRun || !isNotDone];
                await pause(wait, signal);
            }
        }
    }
    /** The session's token, fetched once for all who wait for it. Raises `TasksError` where nobody is signed in. */
    #token(session) {
        const fetching = (session.token ??= this.#getToken().then((token) => {
            if (!token)
                throw new TasksError({ status: 401, code: "token_missing", detail: "Sign in first." });
            const user = subject(token);
            if (session.user !== null && session.user !== user) {
                // Another user has signed in meanwhile: what was asked for one must not be done as the other.
                const changed = new TasksError({ status: 401, code: "user_changed", detail: "Another user has signed in." });
                if (session === this.#session)
                    this.forget(changed);
                throw changed;
            }
            session.user = user;
            return token;
        }));
        fetching.catch(() => session.token === fetching && (session.token = null)); // the next request tries again
        return fetching;
    }
}
const path = (id, action = "") => `/api/tasks/${encodeURIComponent(id)}${action}`;
const copied = (response) => ({ ...response, body: structuredClone(response.body) });
/** Tell a problem of an operation as a request of its own would have it: `title: …`, not `operations.3.task.title: …`. */
const alone = (problem) => Object.assign(problem, {
    detail: problem.detail.replace(/^operations\.\d+\.(task\.)?/, ""),
    errors: problem.errors?.map((one) => ({ ...one, pointer: one.pointer.replace(/^\/operations\/\d+(\/task)?/, "") })) ?? [],
});
/** What an attempt before has done, as the refusal of the next one tells; undefined where it does not. */
function doneBefore({ method, headers, body }, { code, current }) {
    if (method === "DELETE" && code === "task_not_found")
        return null;
    const isIn = ([name, value]) => JSON.stringify(value) === JSON.stringify(current?.[name]);
    const isDone = headers?.["If-None-Match"] || (body && Object.entries(JSON.parse(body)).every(isIn));
    return (isDone && current) || undefined;
}
function search(query) {
    const named = ([name, value]) => [value ?? []].flat().map((one) => [name, String(one)]);
    const pairs = Object.entries(query).flatMap(named);
    return pairs.length === 0 ? "" : `?${new URLSearchParams(pairs)}`;
}
function subject(token) {
    const claims = token.split(".")[1]?.replaceAll("-", "+").replaceAll("_", "/") ?? "";
    try {
        const bytes = Uint8Array.from(atob(claims), (character) => character.charCodeAt(0));
        return String(JSON.parse(new TextDecoder().decode(bytes)).sub);
    }
    catch {
        throw new TasksError({ status: 401, code: "token_invalid", detail: "This is not a token." });
    }
}
/** What a response holds. Raises `TasksError` where that is a problem. */
async function received(response, silence) {
    const { status, headers } = response;
    const isEmpty = status === 204 || status === 304;
    if (response.ok || isEmpty)
        return { status, headers, body: isEmpty ? null : await json(response, silence) };
    const isProblem = headers.get("Content-Type")?.startsWith("application/problem+json");
    const other = { status, code: "not_the_api", detail: "Something other than the tasks API has answered." };
    const problem = isProblem ? await json(response, silence) : other;
    throw new TasksError(problem, Math.min(Number(headers.get("Retry-After")) || 0, 3600));
}
/** Read a response, however slowly it comes. */
async function json({ body }, silence) {
    const pieces = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let piece; !(piece = await unlessSilent(pieces.read(), silence)).done;)
        text += piece.value;
    return JSON.parse(text);
}
/** What a promise brings, or a `TimeoutError`, which gives its request up, where that takes a minute. */
function unlessSilent(promise, silence) {
    // Not `AbortSignal.timeout`: Node.js 20 has one that only an `AbortSignal.any` holds collected before its time.
    const timer = setTimeout(() => silence.abort(new DOMException("Nothing has arrived for a minute.", "TimeoutError")), 60_000);
    return until(promise, silence.signal).finally(() => clearTimeout(timer));
}
/** What a promise brings, or the signal's reason where that aborts before. */
function until(promise, signal) {
    return new Promise((resolve, reject) => {
        const end = () => reject(signal.reason);
        signal.aborted ? end() : signal.addEventListener("abort", end);
        promise.finally(() => signal.removeEventListener("abort", end)).then(resolve, reject);
    });
}
/** Wait so many seconds, and up to a half more: clients that failed together should not come back together. */
async function pause(seconds, signal) {
    let timer;
    const over = new Promise((resolve) => (timer = setTimeout(resolve, seconds * 1000 * (1 + Math.random() / 2))));
    await until(over, signal).finally(() => clearTimeout(timer));
}

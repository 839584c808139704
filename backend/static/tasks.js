/**
 * A client of the tasks API in one file, to be copied into a frontend. Strict TypeScript, no dependency; for browsers
 * since 2024 and Node.js since 20. tasks.js is this file compiled, for who has no compiler.
 *
 * One `TasksClient` belongs to one session. The token, the ETags and the requests under way live in it and nowhere
 * else, so that after `forget()` the next user of the page sees nothing of the one before. With Better Auth's client:
 *
 *     const authClient = createAuthClient({
 *       plugins: [jwtClient()],
 *       fetchOptions: { onResponse: ({ request }) => void (/token|get-session/.test(`${request.url}`) || tasks.forget()) },
 *     });
 *     const getToken = async () => (await authClient.token()).data?.token ?? null;
 *     export const tasks = new TasksClient("http://127.0.0.1:8000", getToken);
 *     authClient.$store.atoms.session?.listen(({ data, isPending }) => isPending || tasks.expect(data?.user.id ?? null));
 *
 * The hook forgets with each sign-in and sign-out of this page, the listener with those of other tabs. On a server,
 * make one `TasksClient` for each request: a shared one would show one user's tasks to another.
 */
/** The API refused, or could not. `detail` is a sentence to show, `code` is stable, to decide by. */
export class TasksError extends Error {
    status;
    code;
    detail;
    /** Names the request in the service's log; null where none was sent. */
    requestId;
    /** With status 422: which field breaks which rule. */
    errors;
    /** With status 412: the task as it is now. */
    current;
    constructor({ status, code, detail, request_id = "", errors, current }) {
        super(detail);
        [this.name, this.status, this.code, this.detail] = ["TasksError", status, code, detail];
        [this.requestId, this.errors, this.current] = [request_id || null, errors ?? [], current ?? null];
    }
    /** Whether the same request would be refused again. */
    get isFinal() {
        return this.status < 500 && ![401, 408, 429].includes(this.status);
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
const KEPT = 20;
/** With these nothing was done, and any request can be sent again; after `outcome_unknown` one that may run twice. */
const NOT_DONE = new Set(["database_unavailable", "overloaded", "issuer_unavailable", "too_many_requests"]);
/** What belongs to one user, and is thrown away as a whole. */
class Session {
    id = uuid7();
    ended = new AbortController();
    seen = new Map();
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
    forget() {
        this.#session.ended.abort(new DOMException("The session has ended.", "AbortError"));
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
        const { body, headers } = await this.#read(`/api/tasks${search(query)}`, signal);
        const total = headers.get("X-Total-Count");
        return { tasks: body, next: headers.get("X-Next-Cursor"), total: total === null ? null : Number(total) };
    }
    /** All pages, one after the other: `for await (const { tasks } of client.pages({ completed: false }))`. */
    async *pages(query = {}, signal) {
        let page = await this.list(query, signal);
        yield page;
        const { skip: _, ...rest } = query;
        while (page.next !== null)
            yield (page = await this.list({ ...rest, cursor: page.next }, signal));
    }
    /** What TanStack Query's `useInfiniteQuery` takes. The key changes with the session: no cache crosses users. */
    infiniteQuery(query = {}) {
        return {
            queryKey: ["tasks", this.#session.id, query],
            queryFn: ({ pageParam, signal }) => this.list(pageParam === null ? query : { ...query, cursor: pageParam }, signal),
            initialPageParam: null,
            getNextPageParam: (page) => page.next,
        };
    }
    async get(id, signal) {
        return (await this.#read(path(id), signal)).body;
    }
    async stats(filters = {}) {
        return (await this.#read(`/api/tasks/stats${search(filters)}`)).body;
    }
    async tags() {
        return (await this.#read("/api/tasks/tags")).body;
    }
    /** Create a task under an id made here, so that sending it twice makes one task. */
    create(task, id = uuid7()) {
        return this.put(id, task);
    }
    /** Create the task, or change the fields that are given. */
    put(id, task, options = {}) {
        return this.#write("PUT", path(id), { ...options, body: task });
    }
    update(id, changes, options = {}) {
        return this.#write("PATCH", path(id), { ...options, body: changes });
    }
    toggle(id, options = {}) {
        return this.#write("POST", path(id, "/toggle"), options);
    }
    /** Move a task in the manual order (`sort=position`). */
    move(id, to) {
        return this.#write("POST", path(id, "/move"), { body: to }, true);
    }
    async delete(id, options = {}) {
        await this.#write("DELETE", path(id), options);
    }
    /** Take a task out of the trash. */
    restore(id) {
        return this.#write("POST", path(id, "/restore"));
    }
    /** Up to 100 operations: all or nothing, or, with `atomic: false`, each for itself with a status of its own. */
    async batch(operations, { atomic = true } = {}) {
        const repeatable = operations.every(({ op }) => op === "put" || op === "patch");
        const body = { operations, atomic };
        return (await this.#write("POST", "/api/tasks/batch", { body }, repeatable)).results;
    }
    /** Up to 100 changes that were made offline, in order, each for itself. To delete what is gone is no problem. */
    async push(operations) {
        try {
            const results = await this.batch(operations, { atomic: false });
            const isDone = ({ problem }, at) => operations[at].op === "delete" && problem?.status === 404;
            return results.map((result, at) => (isDone(result, at) ? { id: result.id, status: 204 } : result));
        }
        catch (error) {
            if (!(error instanceof TasksError && error.isFinal))
                throw error;
            if (operations.length === 1)
                return [{ id: operations[0].id, status: error.status, problem: error }];
            const results = []; // one that cannot be read is no reason to refuse the others
            for (const operation of operations)
                results.push(...(await this.push([operation])));
            return results;
        }
    }
    /** What has changed since a checkpoint; without one, everything. A replica that applies it has what the service has. */
    async changes(since = null, limit = 500) {
        const changes = new Map();
        let anew = false;
        for (let more = true; more;) {
            try {
                const path = `/api/tasks/changes${search({ since, limit })}`;
                const { body: page } = await this.#read(path);
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
     * Keep a replica in step until the session ends, or until `stop`: apply what has changed, every so many milliseconds.
     * `exchange` sends changes first, in their order, and again until the service is reached; it says what became of each.
     */
    follow(apply, every = 10_000) {
        const { ended } = this; // what is sent later would be sent as the next user's
        let [checkpoint, turn, stopped] = [null, Promise.resolve(), false];
        const exchange = (operations) => {
            let results = operations.length === 0 ? [] : null;
            const attempt = async () => {
                ended.throwIfAborted();
                try {
                    results ??= await this.push(operations);
                    const found = await this.changes(checkpoint);
                    await apply(found);
                    ({ checkpoint } = found);
                    return results;
                }
                catch {
                    return pause(every / 1000, ended).then(attempt);
                }
            };
            const exchanged = turn.then(attempt);
            turn = exchanged.catch(() => undefined);
            return exchanged;
        };
        const goOn = async () => {
            for (; !stopped; await pause(every / 1000, ended))
                await exchange([]);
        };
        goOn().catch(() => undefined); // the session has ended
        return { exchange, stop: () => void (stopped = true) };
    }
    async #read(path, signal) {
        const { seen } = this.#session; // of the user who asks: by the time of the response it may be another's turn
        const known = seen.get(path);
        const response = await this.#send("GET", path, { signal }, true, known && { "If-None-Match": known.etag });
        if (response.status === 304 && known)
            return known;
        const body = (await response.json());
        const etag = response.headers.get("ETag");
        seen.delete(path);
        if (etag !== null)
            seen.set(path, { etag, body, headers: response.headers });
        if (seen.size > KEPT)
            seen.delete(seen.keys().next().value); // the oldest
        return { body, headers: response.headers };
    }
    async #write(method, path, options = {}, repeatable = method !== "POST") {
        const response = await this.#send(method, path, options, repeatable, {
            ...(options.body !== undefined && { "Content-Type": "application/json" }),
            ...(options.ifMatch !== undefined && { "If-Match": `"${options.ifMatch}"` }),
        });
        return response.status === 204 ? null : (await response.json());
    }
    /** Send a request: once more with a new token after a 401, and a few times where that cannot do harm. */
    async #send(method, path, options, repeatable, headers = {}) {
        const session = this.#session;
        const signal = options.signal ? AbortSignal.any([options.signal, session.ended.signal]) : session.ended.signal;
        const body = options.body === undefined ? null : JSON.stringify(options.body);
        let refused = false;
        for (let attempt = 1;; attempt++) {
            const token = this.#token(session);
            const authorization = `Bearer ${await token}`;
            signal.throwIfAborted();
            let response;
            try {
                response = await fetch(this.#base + path, {
                    method, body, signal, headers: { ...headers, Authorization: authorization }, cache: "no-store",
                });
            }
            catch (error) {
                if (signal.aborted || !repeatable || attempt === ATTEMPTS)
                    throw error; // offline, or cut off on the way
                await pause(attempt, signal);
                continue;
            }
            if (response.ok || response.status === 304)
                return response;
            const problem = await problemOf(response);
            if (response.status === 401 && !refused) {
                refused = true;
                if (session.token === token)
                    session.token = null; // else another request has fetched a new one already
            }
            else if (attempt > 1 && method === "DELETE" && response.status === 404) {
                return new Response(null, { status: 204 }); // the attempt before has done it
            }
            else {
                const again = NOT_DONE.has(problem.code) || (repeatable && problem.code === "outcome_unknown");
                if (!again || attempt === ATTEMPTS)
                    throw new TasksError(problem);
                await pause(Math.max(attempt, Number(response.headers.get("Retry-After"))), signal);
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
                if (session === this.#session)
                    this.forget();
                throw new TasksError({ status: 401, code: "user_changed", detail: "Another user has signed in." });
            }
            session.user = user;
            return token;
        }));
        fetching.catch(() => {
            if (session.token === fetching)
                session.token = null; // the next request tries again
        });
        return fetching;
    }
}
const path = (id, action = "") => `/api/tasks/${encodeURIComponent(id)}${action}`;
function search(query) {
    const pairs = Object.entries(query).flatMap(([name, value]) => value == null ? [] : [value].flat().map((one) => [name, String(one)]));
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
async function problemOf(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (type.startsWith("application/problem+json"))
        return (await response.json());
    return { status: response.status, code: "not_the_api", detail: "Something other than the tasks API has answered." };
}
/** Wait so many seconds, more or less: clients that failed together should not come back together. */
function pause(seconds, signal) {
    return new Promise((resolve, reject) => {
        const end = () => (clearTimeout(timer), reject(signal.reason));
        const goOn = () => (signal.removeEventListener("abort", end), resolve());
        const timer = setTimeout(goOn, seconds * 1000 * (0.5 + Math.random() / 2));
        signal.addEventListener("abort", end, { once: true });
    });
}

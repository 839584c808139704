// The README's `lib/auth-client.ts`, bundled, with a Better Auth: what ends the session of its client, and what does not.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, test } from "node:test";

const [bundle] = process.argv.slice(2);
const server = spawn(process.execPath, ["server.mjs", "{}"], { stdio: ["ignore", "pipe", "inherit"] });
after(() => server.kill());
const origin = String((await once(server.stdout, "data"))[0]).trim();

// A browser's cookies, which Node.js does not keep.
const cookies = new Map();
const { fetch } = globalThis;
globalThis.fetch = async (url, options = {}) => {
  const headers = new Headers({ ...Object.fromEntries(new Headers(options.headers)), Origin: origin });
  headers.set("Cookie", [...cookies].map((pair) => pair.join("=")).join("; "));
  const response = await fetch(url, { ...options, headers });
  for (const cookie of response.headers.getSetCookie()) cookies.set(...cookie.split(";")[0].split(/=(.*)/));
  return response;
};

process.env.BETTER_AUTH_URL = origin;
const { authClient, tasks } = await import(bundle);
const ADA = { name: "Ada", email: "ada@example.com", password: "correct horse" };

const ends = async (action) => {
  await tasks.user();
  const { ended } = tasks;
  const { error } = await action();
  assert.equal(error, null);
  return ended.aborted;
};

test("what changes who is signed in ends the session, and nothing else does", async () => {
  await authClient.signUp.email(ADA);
  assert.equal(await ends(() => authClient.listSessions()), false);
  assert.equal(await ends(() => authClient.updateUser({ name: "Ada L." })), false);
  assert.equal(await ends(() => authClient.$fetch("/ok")), false);
  assert.equal(await ends(() => authClient.signIn.email(ADA)), true);
  assert.equal(await ends(() => authClient.signOut()), true);
});

test("a session that cannot be read is not the end of one", async () => {
  await authClient.signIn.email(ADA);
  const user = await tasks.user();
  const { ended } = tasks;
  const { session } = authClient.$store.atoms;
  server.kill();
  await once(server, "exit");
  await session.get().refetch();
  assert.ok(session.get().error);
  assert.equal(ended.aborted, false);
  assert.equal(await tasks.user(), user);
});

// A Better Auth as a frontend has it, and the frontend's page beside it, on a port of its own. For tests.
//
// Takes its options as JSON in its one argument and prints its origin when it is ready. It keeps nothing: users, sessions
// and keys live in memory.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";
import { build } from "esbuild";

const { algorithm, expirationTime, sessionCookieCache = false, api } = JSON.parse(process.argv[2]);
const database = { user: [], session: [], account: [], verification: [], jwks: [] };

async function bundle() {
  const { outputFiles } = await build({
    absWorkingDir: fileURLToPath(new URL(".", import.meta.url)),
    entryPoints: ["app.js"],
    bundle: true,
    format: "esm",
    write: false,
    define: { "process.env.API_URL": JSON.stringify(api) },
  });
  return outputFiles[0].text;
}

// What the service's own page, at the origin of the API, needs to sign in here; `trustedOrigins` is the other half.
const LET_IN = new Headers({
  "Access-Control-Allow-Origin": api,
  "Access-Control-Allow-Credentials": "true",
  "Access-Control-Allow-Headers": "Content-Type",
});

const files = {
  "/": ["text/html", () => readFile(new URL("index.html", import.meta.url))],
  "/app.js": ["text/javascript", bundle],
};

const server = createServer(async (request, response) => {
  if (request.url.startsWith("/api/auth/")) {
    if (api && request.headers.origin === api) response.setHeaders(LET_IN);
    return request.method === "OPTIONS" ? response.writeHead(204).end() : handler(request, response);
  }
  if (request.method === "POST" && request.url === "/rotate") {
    // What time does when `rotationInterval` is set: the keys expire, are published a while longer, and the next token
    // is signed with a new one.
    for (const key of database.jwks) key.expiresAt = new Date(Date.now() - 1000);
    return response.writeHead(204).end();
  }
  const [type, content] = files[request.url] ?? [];
  if (!content) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` }).end(await content());
});

let handler;
server.listen(0, "127.0.0.1", () => {
  const baseURL = `http://127.0.0.1:${server.address().port}`;
  const auth = betterAuth({
    baseURL,
    secret: crypto.randomUUID() + crypto.randomUUID(),
    database: memoryAdapter(database),
    emailAndPassword: { enabled: true },
    ...(api && { trustedOrigins: [api] }),
    telemetry: { enabled: false },
    ...(sessionCookieCache && { session: { cookieCache: { enabled: true, strategy: "jwt" } } }),
    plugins: [
      jwt({
        ...(sessionCookieCache && { sessionCookieCache }),
        ...(algorithm && { jwks: { keyPairConfig: { alg: algorithm } } }),
        ...(expirationTime && { jwt: { expirationTime } }),
      }),
      bearer(),
    ],
  });
  handler = toNodeHandler(auth);
  console.log(baseURL);
});

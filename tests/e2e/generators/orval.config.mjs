const mutator = { path: "./http.ts", name: "http" };
const output = (client) => ({ target: `orval/${client === "react-query" ? "query" : client}.ts`, client, mode: "single" });

export default {
  fetch: { input: "openapi.json", output: { ...output("fetch"), override: { mutator } } },
  query: { input: "openapi.json", output: { ...output("react-query"), httpClient: "fetch", override: { mutator } } },
  zod: { input: "openapi.json", output: output("zod") },
};

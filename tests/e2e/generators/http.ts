// Where orval's generated functions send their requests: the base URL and the token are the application's to say.
import { TOKEN } from "./checks.ts";

let base = "";

export const use = (url: string): void => void (base = url);

export async function http<T>(url: string, options: RequestInit): Promise<T> {
  const headers = new Headers(options.headers);
  headers.set("Authorization", `Bearer ${TOKEN}`);
  const response = await fetch(base + url, { ...options, headers });
  const data: unknown = response.status === 204 ? undefined : await response.json();
  return { status: response.status, data, headers: response.headers } as T;
}

// Where orval's generated functions send their requests: the base URL and the token are the application's to say.
import { API_URL, TOKEN } from "./checks.ts";

export async function http<T>(url: string, options: RequestInit): Promise<T> {
  const headers = new Headers(options.headers);
  headers.set("Authorization", `Bearer ${TOKEN}`);
  const response = await fetch(API_URL + url, { ...options, headers });
  const data: unknown = response.status === 204 ? undefined : await response.json();
  return { status: response.status, data, headers: response.headers } as T;
}

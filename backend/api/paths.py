"""The addresses that more than one module knows."""

API = "/api"
TASKS = f"{API}/tasks"
BATCH = f"{TASKS}/batch"
MCP = "/mcp"

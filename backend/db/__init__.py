"""The connection: from any database URL to executors whose failures have names."""

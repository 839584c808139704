"""The connection: from any database URL to sessions whose failures have names."""

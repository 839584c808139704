"""Who is calling: from a bearer token to an identity. Knows no HTTP server."""

"""The HTTP form of the service: routes, problems, limits. Knows no SQL."""

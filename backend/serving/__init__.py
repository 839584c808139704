"""What knows uvicorn: the limits of a connection, and the end of a process. Knows no task."""

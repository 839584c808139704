"""`python -m backend` is `todo-backend`."""

from backend.cli import main

main()

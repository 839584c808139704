"""A tasks API for Neon and Better Auth. Start at `main.py`; the layers are drawn in `CLAUDE.md`."""

from importlib.metadata import version

__version__ = version("todo-backend")

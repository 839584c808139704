"""A tasks API for Neon and Better Auth. Start at `main.py`; the layers are drawn in `CLAUDE.md`."""

"""The rules: what may be done, and by whom. Knows no HTTP."""

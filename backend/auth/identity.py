"""Who is calling."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified user. `user_id` is the token's `sub`: 1 to 255 characters that a database can store."""

    user_id: str

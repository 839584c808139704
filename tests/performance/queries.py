"""The lists that are measured: what the service is asked, and how the floor asks the database for the same."""

_URGENCY = "array_position(ARRAY['low', 'medium', 'high', 'urgent'], priority) DESC NULLS LAST"
_DUE = "due_date || coalesce(due_time, '') NULLS LAST"


def _has(word: str) -> str:
    texts = ("title_folded", "description_folded", "tags_folded")
    return "(" + " OR ".join(f"{text} LIKE '%{word}%'" for text in texts) + ")"


LISTS = {
    "completed": ("completed=false", "AND NOT completed ORDER BY id DESC"),
    "priority, due": (
        "priority=high&due_from=2026-12-01&due_to=2026-12-31",
        "AND priority = 'high' AND due_date BETWEEN '2026-12-01' AND '2026-12-31' ORDER BY id DESC",
    ),
    "tag": ("tag=home", """AND tags LIKE '%"home"%' ORDER BY id DESC"""),
    "search": ("search=milk+garden", f"AND {_has('milk')} AND {_has('garden')} ORDER BY id DESC"),
    "search in vain": ("search=zebra", f"AND {_has('zebra')} ORDER BY id DESC"),
    "by title": ("sort=title", 'ORDER BY title_folded COLLATE "C", id'),
    "by due date, priority": ("sort=due_date,priority", f"ORDER BY {_DUE}, {_URGENCY}, id DESC"),
    "by position": ("sort=position", "ORDER BY position, id"),
    "all of it": (
        "completed=false&tag=home&search=milk&sort=due_date,priority",
        f"""AND NOT completed AND tags LIKE '%"home"%' AND {_has("milk")} ORDER BY {_DUE}, {_URGENCY}, id DESC""",
    ),
}
"""Of each its query, and what follows in the floor's statement."""

CLAUSES = dict(LISTS.values())

"""One chart of the results, as SVG written by hand."""

from typing import Any

WIDTH, LEFT, BAR, GAP = 760, 90, 14, 16
COLOURS = {"floor": "#9aa5b1", "service": "#2563eb", "recipe": "#d97706"}


def draw(rows: list[dict[str, Any]], connections: int = 8) -> str:
    """Draw the CPU of every request as bars, a colour for each service."""
    shown = [row for row in rows if row["connections"] == connections]
    names = list(dict.fromkeys(row["request"] for row in shown))
    scale = (WIDTH - LEFT - 90) / max(row["cpu_us"] for row in shown)
    parts = []
    y = 40
    for name in names:
        parts.append(f'<text x="{LEFT - 10}" y="{y + BAR * 2}" text-anchor="end">{name}</text>')
        for service, colour in COLOURS.items():
            cost = next(row["cpu_us"] for row in shown if row["request"] == name and row["service"] == service)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{cost * scale:.0f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + cost * scale + 6:.0f}" y="{y + BAR - 3}">{cost:.0f} µs</text>')
            y += BAR
        y += GAP
    x = LEFT
    for service, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="22">{service}</text>')
        x += 110
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )

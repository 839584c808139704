"""One chart of the results, as SVG written by hand."""

import json
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP = 760, 80, 15, 14
BEFORE = "before"
COLOURS = {"framework": "#9ca3af", "service": "#2563eb", BEFORE: "#bfd4fb", "peer": "#3f9b5f", "recipe": "#d97706"}
FLOOR = "#111827"


def draw(rows: list[dict[str, Any]], before: Path, connections: int = 8) -> str:
    """Draw the CPU of every request in times the floor's, as bars, with what the service took in `before`."""
    earlier = json.loads(before.read_text())
    cpu = {(row["request"], row["service"]): row["cpu_us"] for row in rows if row["connections"] == connections}
    names = list(dict.fromkeys(name for name, _ in cpu))
    times = {(name, who): cost / cpu[name, "floor"] for (name, who), cost in cpu.items()}
    times |= {(name, BEFORE): ratio for name, ratio in earlier["times_floor"].items()}
    scale = (WIDTH - LEFT - 110) / max(times.values())
    parts = _legend({BEFORE: f"service on {earlier['on']}"})
    y = top = 70
    for name in names:
        parts.append(f'<text x="{LEFT - 10}" y="{y + BAR}" text-anchor="end" font-weight="bold">{name}</text>')
        parts.append(f'<text x="{LEFT - 10}" y="{y + 2 * BAR}" text-anchor="end">{cpu[name, "floor"]:.0f} µs</text>')
        for who, colour in COLOURS.items():
            if (name, who) in times:
                width = times[name, who] * scale
                label = f"{times[name, who]:.2f}" + (f" ({cpu[name, who]:.0f} µs)" if (name, who) in cpu else "")
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR - 2}" fill="{colour}"/>')
                parts.append(f'<text x="{LEFT + max(width, scale) + 6:.0f}" y="{y + BAR - 4}">{label}</text>')
                y += BAR
        y += GAP
    x = LEFT + scale
    parts.append(f'<path d="M{x:.0f} {top - 4}V{y - GAP + 4}" stroke="{FLOOR}" stroke-dasharray="3 2"/>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>\n'
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">CPU of a request, in times the floor: '
        f"shorter is better (pool, {connections} clients)</text>\n{body}\n</svg>\n"
    )


def _legend(names: dict[str, str]) -> list[str]:
    parts = [f'<path d="M{LEFT + 6} 36V52" stroke="{FLOOR}" stroke-dasharray="3 2"/>']
    parts.append(f'<text x="{LEFT + 16}" y="48">floor (its µs are on the left)</text>')
    x = LEFT + 220
    for who, colour in COLOURS.items():
        name = names.get(who, who)
        parts.append(f'<rect x="{x}" y="38" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="48">{name}</text>')
        x += 42 + 7 * len(name)
    return parts

"""Draws docs/rooms.svg: the rooms of the package and which room imports which.

    python tools/room_map.py [--check]

A room is a file or folder of `codeformer_jax/`. A dark arrow leads from a room to each room that it
imports and reaches by no other way; a light line stands for every other import. With `--check`
nothing is written; the exit code is 1 if the picture is out of date or has too many arrows.
"""

import argparse
import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "codeformer_jax"
PICTURE = ROOT / "docs" / "rooms.svg"
MOST_ARROWS = 82

# Rows of the picture from the top; a room imports only from rows below its own.
ROWS = (
    {"cli": "the command line"},
    {
        "demo": "three short runs",
        "restore": "restored pictures",
        "prepare": "dataset builder",
    },
    {
        "evaluate": "scores, reports",
        "train": "the loop",
        "priors": "pictures of priors",
    },
    {"checkpoints": "save, load, teachers", "compare": "traces, differences"},
    {"tasks": "training tasks", "faces": "detect, align, paste", "data": "sources, batches"},
    {"convert": "PyTorch weights", "sampling": "codes of a prior"},
    {"losses": "pure functions", "metrics": "pure functions"},
    {"degrade": "degradations", "nn": "networks"},
    {"ops": "array functions"},
    {"system": "files, processes, keys, mesh"},
)
WIDTH, ROW, BOX, TALL, EDGE = 900, 84, 176, 46, 16
# Centres of the boxes, chosen so that few arrows run behind a box.
CENTRES = {
    "cli": 450,
    "restore": 600, "prepare": 800,
    "demo": 110, "evaluate": 310, "train": 505, "priors": 700,
    "checkpoints": 180, "compare": 410,
    "tasks": 290, "data": 800,
    "convert": 690, "sampling": 495, "faces": 545,
    "losses": 230, "metrics": 420,
    "degrade": 110, "nn": 560,
    "ops": 330, "system": 800,
}  # fmt: skip


def room_of(module: str) -> str | None:
    """Returns the room of a dotted name, None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def imports(source: str, module: str) -> set[str]:
    """Returns the dotted names that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def arrows(root: Path = ROOT) -> set[tuple[str, str]]:
    """Returns (room, imported room) of every pair of rooms with an import."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    modules = {file: ".".join(file.relative_to(root).with_suffix("").parts) for file in files}
    rooms = {room_of(module) for module in modules.values()} - {None, "__init__"}
    found = set()
    for file, module in modules.items():
        room = room_of(module)
        if room == "__init__":
            continue  # The package's public face belongs to no room.
        for name in imports(file.read_text(encoding="utf-8"), module):
            other = room_of(name)
            if other in rooms and other != room:
                found.add((room, other))
    return found


def needed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns the arrows that no other path of arrows replaces."""
    below: dict[str, set[str]] = {}
    for room, other in pairs:
        below.setdefault(room, set()).add(other)

    def reach(room: str) -> set[str]:
        return set().union(*({o} | reach(o) for o in below.get(room, ())))

    return {
        (room, other)
        for room, other in pairs
        if not any(other in reach(via) for via in below[room] if via != other)
    }


def positions() -> dict[str, tuple[float, float]]:
    """Returns {room: centre of its box}, in pixels."""
    return {
        room: (CENTRES[room], EDGE + TALL / 2 + ROW * i)
        for i, row in enumerate(ROWS)
        for room in row
    }


def curve(start: tuple[float, float], end: tuple[float, float], shift: float) -> str:
    """Returns the path of an arrow from the lower edge of a box to the upper edge of another."""
    (x0, y0), (x1, y1) = start, end
    y0, y1, x1 = y0 + TALL / 2, y1 - TALL / 2 - 5, x1 + shift
    if abs(y1 - y0) < 1:
        y1 = y0
    bend = min(60.0, (y1 - y0) / 2)
    return (
        f"M{x0:.0f},{y0:.0f} C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f} {x1:.0f},{y1:.0f}"
    )


def draw(pairs: set[tuple[str, str]]) -> str:
    """Returns the picture as SVG.

    Raises:
        ValueError: a room has no place in `ROWS`, or an import leads up or sideways.
    """
    at = positions()
    row_of = {room: i for i, row in enumerate(ROWS) for room in row}
    if strange := sorted({room for pair in pairs for room in pair} - at.keys()):
        raise ValueError(f"rooms without a place in tools/room_map.py: {', '.join(strange)}")
    if wrong := sorted(pair for pair in pairs if row_of[pair[0]] >= row_of[pair[1]]):
        raise ValueError(f"imports that do not lead down in tools/room_map.py: {wrong}")
    main = needed(pairs)
    height = EDGE * 2 + ROW * (len(ROWS) - 1) + TALL + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#1f4e79"/></marker>'
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for pair in sorted(pairs - main):
        path = curve(at[pair[0]], at[pair[1]], 0)
        parts.append(f'<path d="{path}" fill="none" stroke="#d9dee4" stroke-width="1"/>')
    for room, other in sorted(main):
        into = sorted((at[a][0], a) for a, b in main if b == other)
        place = [a for _, a in into].index(room) - (len(into) - 1) / 2
        path = curve(at[room], at[other], 16 * place)
        parts.append(
            f'<path d="{path}" fill="none" stroke="#1f4e79" stroke-width="1.6" '
            'marker-end="url(#tip)"/>'
        )
    for row in ROWS:
        for room, words in row.items():
            x, y = at[room]
            name = f"{room}/" if (ROOT / PACKAGE / room).is_dir() else f"{room}.py"
            parts += [
                f'<rect x="{x - BOX / 2:.0f}" y="{y - TALL / 2:.0f}" width="{BOX}" height="{TALL}" '
                'rx="6" fill="#eef4fa" stroke="#1f4e79"/>',
                f'<text x="{x:.0f}" y="{y - 4:.0f}" text-anchor="middle" font-size="15" '
                f'font-weight="bold" fill="#12324f">{escape(name)}</text>',
                f'<text x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle" font-size="12" '
                f'fill="#333">{escape(words)}</text>',
            ]
    parts.append(
        f'<text x="{WIDTH / 2:.0f}" y="{height - 14}" text-anchor="middle" font-size="12" '
        f'fill="#555">A room imports only from below. Dark: {len(main)} imports that no path '
        f"replaces. Light: the other {len(pairs - main)}.</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    args = parser.parse_args()
    pairs = arrows()
    if len(pairs) > MOST_ARROWS:
        print(f"{len(pairs)} arrows between rooms, at most {MOST_ARROWS}:", file=sys.stderr)
        print("\n".join(f"  {a} -> {b}" for a, b in sorted(pairs)), file=sys.stderr)
    picture = draw(pairs)
    if args.check:
        same = PICTURE.read_text(encoding="utf-8") == picture
        return int(not same or len(pairs) > MOST_ARROWS)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

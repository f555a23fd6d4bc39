"""Writes docs/config.md: every key of the configs, its meaning, range and default.

    python tools/config_docs.py [--check]

The meaning is the comment above or behind the line of `configs/*.py` that first sets the key, the
range is its row in `tasks.settings.RULES`, and the defaults are the values of the configs. With
`--check` nothing is written; the exit code is 1 if the page is out of date.
"""

import argparse
import ast
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from codeformer_jax.tasks.settings import RULES  # noqa: E402

PAGE = ROOT / "docs" / "config.md"
# Configs in the order in which they introduce keys -> their names on the page.
CONFIGS = {
    "vqgan": "stage I",
    "codeformer_stage2": "stage II",
    "codeformer_stage3": "stage III",
    "vqvae_faces": "VQ-VAE",
    "gpt_faces": "GPT",
    "pixelcnn_faces": "PixelCNN",
}
HEADER = """\
# Settings

This page lists every key of the configs. A config is a Python file in `configs/`.
The command line overrides any of its values:

    python train.py --config=configs/vqgan.py --workdir=runs/vqgan \\
        --config.data.batch_size=16 --config.mesh=data:4,fsdp:2 --config.model.dtype=bfloat16

- Write a tuple as `--config.model.ch_mult='(1, 2, 4)'` and an unset value as `none`.
- A run checks all values before it writes anything, and lists every one that is out of range.
- `WORKDIR/config.json` keeps the values of a run.
  [resume.md](resume.md#changed-settings) says which of them may change when a run resumes.
- The default is the value of the published config that introduces the key. Other configs'
  values follow it.

Recipes, the sections under `degradation`, are in [data.md](data.md#corruptions).
`configs/demo.py` has values for 64 px on two CPU cores. `configs/reference/` has the published
values that this project corrects. `python tools/config_docs.py` makes this page.
"""


def meanings(source: str) -> dict[str, str]:
    """Returns {dotted key: comment} of every assignment to `config.*` that has a comment."""
    lines, found = source.splitlines(), {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        keys = [ast.unparse(target) for target in node.targets]
        keys = [key.removeprefix("config.") for key in keys if key.startswith("config.")]
        behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()
        text = behind.removeprefix("#").strip() if behind.startswith("#") else ""
        row = node.lineno - 2
        above = []
        while not text and lines[row].strip().startswith("#"):
            above.insert(0, lines[row].strip().removeprefix("#").strip())
            row -= 1
        if text := text or " ".join(above):
            found |= dict.fromkeys(keys, text)
    return found


def values(config, prefix: str = "") -> dict[str, object]:
    """Returns {dotted key: value}; recipes are left out, docs/data.md describes them."""
    found = {}
    for key in config:
        value, name = config[key], f"{prefix}{key}"
        if name == "degradation":
            continue
        if hasattr(value, "items"):
            found |= values(value, f"{name}.")
        else:
            found[name] = value
    return found


def collect(root: Path = ROOT) -> dict[str, dict]:
    """Returns {key: {"meaning", "values"}}, in the order of introduction.

    Raises:
        ValueError: a key has no comment where it is introduced.
    """
    keys: dict[str, dict] = {}
    for stem, name in CONFIGS.items():
        said = meanings((root / "configs" / f"{stem}.py").read_text(encoding="utf-8"))
        config = importlib.import_module(f"configs.{stem}").get_config()
        found, order = values(config), [*said]
        for key in sorted(found, key=lambda key: order.index(key) if key in said else len(order)):
            row = keys.setdefault(key, {"meaning": said.get(key, ""), "values": {}})
            row["values"][name] = found[key]
    if silent := [key for key, row in keys.items() if not row["meaning"]]:
        raise ValueError(f"configs/: no comment says what these keys mean: {', '.join(silent)}")
    return keys


def shown(value) -> str:
    """Returns a value as a user would give it."""
    if value is None:
        return "unset"
    if isinstance(value, tuple) and value and hasattr(value[0], "items"):
        return f"{len(value)} rows"
    return f"`{value}`"


def defaults(row: dict) -> str:
    """Returns the default and, with the configs' names, the values that differ from it."""
    (first, default), *others = row["values"].items()
    text = shown(default) if first == "stage I" else f"{shown(default)} ({first})"
    named: dict[str, list[str]] = {}
    for name, value in others:
        if value != default:
            named.setdefault(shown(value), []).append(name)
    return ", ".join([text, *(f"{value} ({', '.join(names)})" for value, names in named.items())])


def page(keys: dict[str, dict]) -> str:
    """Returns the page in Markdown, one table for each section of the config."""
    sections: dict[str, list[str]] = {}
    for key, row in keys.items():
        section = key.rpartition(".")[0]
        rule = RULES.get(key)
        cells = [f"`{key}`", row["meaning"], rule.expected if rule else "", defaults(row)]
        sections.setdefault(section, []).append(f"| {' | '.join(cells)} |")
    text = HEADER
    for section, rows in sections.items():
        title = f"`{section}`" if section else "The run"
        text += f"\n## {title}\n\n| key | meaning | allowed | default |\n|---|---|---|---|\n"
        text += "\n".join(rows) + "\n"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    args = parser.parse_args()
    text = page(collect())
    if args.check:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

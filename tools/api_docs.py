"""Makes docs/api.md from the docstrings of the public names: `python tools/api_docs.py`.

The sources are read, not imported. A module's public names are those of its `__all__`; without
one they are the functions and classes that it defines.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "codeformer_jax"
PAGE = ROOT / "docs" / "api.md"
WIDTH = 96
Definition = ast.FunctionDef | ast.ClassDef

HEAD = f"""# API

Made from the docstrings by `python tools/api_docs.py`; a test compares.

`import {PACKAGE}` imports nothing else: each name below is imported when it is first used, as in
`{PACKAGE}.nn.VQGAN` or `{PACKAGE}.Restorer`. [library.md](library.md) shows them at work.
"""


def parse(module: str) -> ast.Module:
    """Returns the syntax tree of `codeformer_jax.x.y`, a file or a package."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """Returns the value of a top-level assignment, None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    return None


def definitions(module: str) -> list[tuple[str, Definition]]:
    """Returns (name, definition) of a module's public functions and classes, by name."""
    tree = parse(module)
    listed = assigned(tree, "__all__")
    defined = {n.name: n for n in tree.body if isinstance(n, Definition)}
    if listed is None:
        return sorted((k, v) for k, v in defined.items() if not k.startswith("_"))
    origins = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith(PACKAGE)
        for alias in node.names
    }
    if (lazy := assigned(tree, "_FILES")) is not None:  # A room that loads its names on first use.
        origins |= {k: (f"{module}.{v}", k) for k, v in ast.literal_eval(lazy).items()}
    found = {}
    for name in ast.literal_eval(listed):
        node = defined.get(name) or (name in origins and definition(*origins[name]))
        if node:
            found[name] = node
    return sorted(found.items())


def definition(module: str, name: str) -> Definition | None:
    """Returns the function or class `name` of a module; None if it is a constant."""
    return next(
        (n for n in parse(module).body if isinstance(n, Definition) and n.name == name), None
    )


def sections(docstring: str | None) -> tuple[str, str]:
    """Returns the first paragraph of a docstring and the list under Args: or Attributes:."""
    text = inspect.cleandoc(docstring or "")
    first = " ".join(text.split("\n\n")[0].split())
    match = re.search(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)+)", text, re.MULTILINE)
    entries = re.split(r"\n(?=    \S)", match[1].rstrip()) if match else []
    lines = []
    for entry in entries:
        names, _, words = " ".join(entry.split()).partition(": ")
        lines.append(f"- `{names}`: {words}" if words else f"- {names}")
    return first, "\n".join(lines)


def signature(node: Definition, name: str) -> str:
    """Returns a function's or class's signature, one argument per line where it is long."""
    returns = ""
    if isinstance(node, ast.FunctionDef):
        arguments = _arguments(node)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    else:
        init = next((n for n in _functions(node) if n.name == "__init__"), None)
        arguments = _arguments(init) if init else list(_fields(node))
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {a}," for a in arguments), f"){returns}"])


def _arguments(node: ast.FunctionDef) -> list[str]:
    a = node.args
    defaults = [None] * (len(a.posonlyargs + a.args) - len(a.defaults)) + a.defaults
    pairs = list(zip(a.posonlyargs + a.args, defaults, strict=True))
    if pairs and pairs[0][0].arg in ("self", "cls"):
        pairs = pairs[1:]
    named = [_argument(*pair) for pair in pairs]
    if a.vararg:
        named.append(f"*{ast.unparse(a.vararg)}")
    elif a.kwonlyargs:
        named.append("*")
    named += map(_argument, a.kwonlyargs, a.kw_defaults)
    return [*named, f"**{ast.unparse(a.kwarg)}"] if a.kwarg else named


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(argument)
    equals = " = " if argument.annotation else "="
    return f"{ast.unparse(argument)}{equals}{ast.unparse(default)}"


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Yields the fields of a dataclass or Linen module."""
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_"):
            yield ast.unparse(n)


def _functions(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [n for n in node.body if isinstance(n, ast.FunctionDef)]


def describe(node: Definition, name: str) -> str:
    """Returns the Markdown of one function or class, with a line for each public method."""
    first, listed = sections(ast.get_docstring(node))
    shown = signature(node, name)
    code = "" if shown == f"{name}()" else f"```python\n{shown}\n```"
    parts = [f"### {name}", code, first, listed]
    for method in _functions(node) if isinstance(node, ast.ClassDef) else ():
        words = sections(ast.get_docstring(method))[0]
        if words and not method.name.startswith("_"):
            is_property = any("property" in ast.unparse(d) for d in method.decorator_list)
            call = "" if is_property else f"({', '.join(_arguments(method))})"
            parts.append(f"`.{method.name}{call}`: {words}")
    return "\n\n".join(part for part in parts if part)


def section(module: str, *, in_full: bool) -> list[str]:
    """Returns the Markdown of a module: its names, or one line per file of a room without them."""
    parts = [f"## {module}", sections(ast.get_docstring(parse(module)))[0]]
    parts += [describe(node, name) for name, node in definitions(module)]
    folder = ROOT.joinpath(*module.split("."))
    if assigned(parse(module), "__all__") is not None or not folder.is_dir():
        return parts
    packages = (path.parent for path in folder.glob("[!_]*/__init__.py"))
    paths = sorted([*folder.glob("[!_]*.py"), *packages])
    files = [f"{module}.{path.stem}" for path in paths]
    if in_full:
        return parts + [text for file in files for text in section(file, in_full=True)]
    lines = [f"- `{file}`: {sections(ast.get_docstring(parse(file)))[0]}" for file in files]
    return [*parts, "\n".join(lines)]


def page() -> str:
    """Returns the text of docs/api.md."""
    face = parse(PACKAGE)
    objects = ast.literal_eval(assigned(face, "_OBJECTS"))
    modules = ast.literal_eval(assigned(face, "_MODULES"))
    where = [f"| `{name}` | `{PACKAGE}.{module}` |" for name, module in objects.items()]
    parts = [HEAD.strip(), "\n".join(["| name | from |", "|---|---|", *where])]
    covered = [f"{PACKAGE}.{module}" for module in modules]
    for module in covered:
        parts += section(module, in_full=module == f"{PACKAGE}.ops")
        for name, origin in objects.items():
            # Names of rooms without a list of their own.
            if f"{PACKAGE}.{origin}".startswith(f"{module}."):
                parts.append(describe(definition(f"{PACKAGE}.{origin}", name), name))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)

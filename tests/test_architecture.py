"""The design's rules that a reader cannot keep by eye: import order, rooms, sizes, docstrings.

Every rule is a function of (path, source) that lists what breaks it, so that each one is also
shown to fail on a small offender.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "codeformer_jax"

# A room imports only from rooms of earlier rows, and from itself.
ROWS = (
    ("system",),
    ("ops",),
    ("nn",),
    ("degrade",),
    ("losses", "metrics"),
    ("convert",),
    ("sampling",),
    ("faces",),
    ("data",),
    ("compare",),
    ("prepare",),
    ("tasks",),
    ("checkpoints",),
    ("train",),
    ("priors",),
    ("evaluate",),
    ("restore",),
    ("demo",),
    ("cli",),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_SCRIPT_LINES = 60
# "path" or "path::function" -> the reason that a reader would accept.
ALLOWED_LENGTHS: dict[str, str] = {
    "configs/vqgan.py::get_config": "a list of values, read from top to bottom",
}
# Files that may import pathlib -> the reason. A user's path may lie in a bucket: everything else
# makes it by `storage.to_path` and annotates it as `storage.Path`.
ALLOWED_PATHLIB = {
    "system/storage.py": "the room of paths",
    "system/atomic.py": "writes to a local file first",
    "system/mirror.py": "writes to a local folder first",
    "system/compilation_cache.py": "the cache of this machine",
    "system/config_file.py": "configs are Python on disk",
    "train/monitor.py": "the local folder of a mirror",
    "train/doctor.py": "measures a folder on disk",
    "faces/models.py": "a file inside a package",
    "restore/embedded.py": "a file inside this package",
    "demo.py": "the clone of the repository",
}


def imports(path, source):
    """(line, absolute dotted name) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = path.with_suffix("").parts[: -node.level]
                base = ".".join((*above, *filter(None, [base])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room_of(path):
    """`codeformer_jax/nn/vqgan.py` -> `nn`; the package's own `__init__.py` belongs to no room."""
    parts = path.with_suffix("").parts
    return None if parts[1:] == ("__init__",) else parts[1]


def import_order(path, source):
    room = room_of(path)
    if room is not None and room not in ROW_OF:
        return [f"{path}: room '{room}' has no row in tests/test_architecture.py and the design"]
    problems = []
    for line, name in imports(path, source):
        parts = name.split(".")
        if parts[0] != PACKAGE or room is None or parts[1:2] in ([], ["__version__"], [room]):
            continue
        if ROW_OF.get(parts[1], len(ROWS)) >= ROW_OF[room]:
            problems.append(f"{path}:{line}: '{room}' may not import '{name}'")
    return problems


def linen_only_in_nn(path, source):
    if room_of(path) == "nn":
        return []
    found = {line for line, name in imports(path, source) if f"{name}.".startswith("flax.linen.")}
    found |= {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "flax.linen"
    }
    return [f"{path}:{line}: flax.linen belongs to nn/ only" for line in sorted(found)]


def keys_are_threefrys(path, source):
    """JAX's default implementation is the user's choice; draws of images may not follow it."""
    if path.parts[-2:] == ("system", "keys.py"):
        return []
    made = ("jax.random.key", "jax.random.PRNGKey", "jax.random.wrap_key_data")
    return [
        f"{path}:{node.lineno}: make keys by system.keys.make_key"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in made
    ]


def private_jax_only_in_connect(path, source):
    if path.parts[-2:] == ("system", "connect.py"):
        return []
    return [
        f"{path}:{line}: {name} is private; only system/connect.py uses such names"
        for line, name in imports(path, source)
        if name.startswith("jax._src")
    ]


def paths_by_the_room(path, source):
    if "/".join(path.parts[1:]) in ALLOWED_PATHLIB:
        return []
    return [
        f"{path}:{line}: a path may lie in a bucket; use system.storage instead of {name}"
        for line, name in imports(path, source)
        if name.split(".")[0] == "pathlib"
    ]


def no_early_torch(path, source):
    """PyTorch is optional: only a function that needs it imports it."""
    if path.name == "trace_torch.py":  # It runs without this package.
        return []
    tree = ast.parse(source)
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return [
        f"{path}:{line}: {name} is optional, import it inside the function that needs it"
        for line, name in imports(path, source)
        if name.split(".")[0] == "torch" and line not in inside
    ]


def has_docstring(path, source):
    return [] if ast.get_docstring(ast.parse(source)) else [f"{path}: no module docstring"]


def config_imports(path, source):
    return [
        f"{path}:{line}: a config imports ml_collections and other configs, not {name}"
        for line, name in imports(path, source)
        if name.split(".")[0] not in ("ml_collections", "configs")
    ]


def over_long(path, source):
    """{"path" or "path::function": problem} of all that is too long, allowed or not."""
    problems = {}
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        problems[f"{path}"] = f"{path}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                name = f"{path}::{node.name}"
                problems[name] = f"{name}: {lines} lines, at most {MAX_FUNCTION_LINES}"
    return problems


def lengths(path, source):
    problems = over_long(path, source)
    return [problem for name, problem in problems.items() if name not in ALLOWED_LENGTHS]


def script_length(path, source):
    lines = len(source.splitlines())
    if lines < MAX_SCRIPT_LINES:
        return []
    return [f"{path}: {lines} lines, a script at the top stays under {MAX_SCRIPT_LINES}"]


def circles(sources):
    """Lists every group of files that import each other, given {path: source} of all files."""
    files = {}
    for path in sources:
        parts = path.with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    reached = {path: set() for path in sources}
    for path, source in sources.items():
        for _, name in imports(path, source):
            # 'package.module.function' and 'package.module' both name the file of the module.
            found = files.get(name) or files.get(name.rpartition(".")[0])
            reached[path] |= {found} - {None, path}
    for middle, beyond in reached.items():
        for found in reached.values():
            if middle in found:
                found.update(beyond)
    groups = {frozenset(p for p in reached[path] if path in reached[p]) for path in reached}
    return [f"files import each other: {', '.join(map(str, sorted(g)))}" for g in groups if g]


PACKAGE_FILES = ("codeformer_jax/**/*.py",)
EVERYWHERE = tuple(
    f"{top}/**/*.py" for top in (PACKAGE, "configs", "benchmarks", "examples", "tests", "tools")
)

# rule, the files it holds for, a small offender and where it would lie
RULES = [
    (import_order, PACKAGE_FILES, "ops/a.py", "from codeformer_jax.nn import vqgan"),
    (import_order, PACKAGE_FILES, "losses.py", "import codeformer_jax.metrics.psnr"),
    (import_order, PACKAGE_FILES, "nn/a.py", "from ..tasks import vqgan"),
    (import_order, PACKAGE_FILES, "nn/__init__.py", "from .. import train"),
    (import_order, PACKAGE_FILES, "data/a.py", "def f():\n    from codeformer_jax import cli"),
    (import_order, PACKAGE_FILES, "cli/main.py", "from codeformer_jax.utils import helper"),
    (import_order, PACKAGE_FILES, "utils.py", ""),
    (linen_only_in_nn, PACKAGE_FILES, "tasks/a.py", "import flax.linen as nn"),
    (linen_only_in_nn, PACKAGE_FILES, "train/a.py", "from flax import linen"),
    (linen_only_in_nn, PACKAGE_FILES, "train/a.py", "import flax\nflax.linen.Dense(3)"),
    (keys_are_threefrys, PACKAGE_FILES, "train/a.py", "key = jax.random.key(0)"),
    (keys_are_threefrys, PACKAGE_FILES, "train/a.py", "make = partial(jax.random.PRNGKey, 0)"),
    (private_jax_only_in_connect, PACKAGE_FILES, "system/a.py", "from jax._src import core"),
    (private_jax_only_in_connect, PACKAGE_FILES, "train/a.py", "import jax._src.distributed"),
    (paths_by_the_room, (*PACKAGE_FILES, "*.py"), "data/a.py", "import pathlib"),
    (paths_by_the_room, (*PACKAGE_FILES, "*.py"), "train.py", "from pathlib import PurePath"),
    (no_early_torch, PACKAGE_FILES, "ops/a.py", "import torch"),
    (no_early_torch, PACKAGE_FILES, "convert/a.py", "try:\n    from torch import nn\nfinally: 0"),
    (has_docstring, PACKAGE_FILES, "ops/a.py", "import jax"),
    (config_imports, ("configs/**/*.py",), "configs/a.py", "from codeformer_jax import losses"),
    (lengths, (*EVERYWHERE, "*.py"), "ops/a.py", "x = 1\n" * 401),
    (lengths, (*EVERYWHERE, "*.py"), "ops/a.py", "def f():\n" + "    x = 1\n" * 60),
    (script_length, ("*.py",), "train.py", "x = 1\n" * 60),
]


def sample_path(name):
    at_top = name.startswith("configs/") or name == "train.py"
    return Path(name) if at_top else Path(PACKAGE, name)


@pytest.mark.parametrize(
    ("rule", "patterns"), {rule: patterns for rule, patterns, *_ in RULES}.items()
)
def test_the_project_keeps_the_rule(rule, patterns):
    files = [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]
    problems = [
        problem
        for file in files
        for problem in rule(file.relative_to(ROOT), file.read_text(encoding="utf-8"))
    ]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(("rule", "_patterns", "name", "source"), RULES)
def test_an_offender_is_found(rule, _patterns, name, source):
    assert len(rule(sample_path(name), source)) == 1


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (import_order, "nn/a.py", "from codeformer_jax.ops import jpeg\nfrom . import layers"),
        (import_order, "nn/a.py", "from codeformer_jax.nn.layers import Norm"),
        (import_order, "cli/__init__.py", "from codeformer_jax import __version__, restore"),
        (import_order, "__init__.py", "from codeformer_jax import convert"),
        (linen_only_in_nn, "nn/a.py", "import flax.linen as nn"),
        (keys_are_threefrys, "system/keys.py", "jax.random.key(0, impl='threefry2x32')"),
        (keys_are_threefrys, "train/a.py", "jax.random.key_data(make_key(0))"),
        (linen_only_in_nn, "train/a.py", "import flax.struct"),
        (paths_by_the_room, "system/storage.py", "import pathlib"),
        (paths_by_the_room, "data/a.py", "from codeformer_jax.system.storage import Path"),
        (no_early_torch, "convert/a.py", "def f():\n    import torch"),
        (config_imports, "configs/a.py", "from configs import demo\nimport ml_collections"),
        (lengths, "ops/a.py", "def f():\n" + "    x = 1\n" * 59),
        (script_length, "train.py", "x = 1\n" * 59),
    ],
)
def test_what_is_allowed_passes(rule, name, source):
    assert rule(sample_path(name), source) == []


def test_every_allowed_length_is_still_needed():
    files = [Path(name.split("::")[0]) for name in ALLOWED_LENGTHS]
    needed = {name for file in files for name in over_long(file, (ROOT / file).read_text())}
    assert not ALLOWED_LENGTHS.keys() - needed


def test_no_files_import_each_other():
    files = [file.relative_to(ROOT) for file in ROOT.glob(PACKAGE_FILES[0])]
    problems = circles({file: (ROOT / file).read_text(encoding="utf-8") for file in files})
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("a", "b", "c", "found"),
    [
        ("from codeformer_jax.ops import b", "import codeformer_jax.ops.c", "from .a import f", 1),
        (
            "def f():\n    from codeformer_jax.ops.b import g",
            "from . import c",
            "from . import a",
            1,
        ),
        ("from codeformer_jax.ops import b, c", "from codeformer_jax.ops import c", "import a", 0),
    ],
)
def test_a_circle_is_found(a, b, c, found):
    sources = {"a": a, "b": b, "c": c, "d": "from . import a"}
    problems = circles({Path(PACKAGE, "ops", f"{name}.py"): text for name, text in sources.items()})
    assert len(problems) == found
    assert all(f"ops/{name}.py" in problem for problem in problems for name in "abc")

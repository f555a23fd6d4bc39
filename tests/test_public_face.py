"""`import codeformer_jax` offers everything and imports nothing until it is used."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import codeformer_jax

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import time
start = time.perf_counter()
import codeformer_jax
seconds = time.perf_counter() - start
import sys
heavy = sorted({"jax", "flax", "numpy", "orbax", "grain", "PIL"} & set(sys.modules))
assert not heavy, heavy
assert seconds < 0.1, seconds
assert {"nn", "Restorer", "from_torch"} <= set(dir(codeformer_jax))
module = codeformer_jax.degrade
assert module is sys.modules["codeformer_jax.degrade"] and callable(module.degrade)
assert codeformer_jax.VQGAN is codeformer_jax.nn.VQGAN
"""


def test_importing_the_package_imports_nothing_else():
    # One slow disk access must not fail it; three must.
    for attempt in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 or attempt == 2:
            break
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", codeformer_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(codeformer_jax, name) is not None
    assert name in dir(codeformer_jax)


def test_editors_see_the_same_names():
    """The imports under TYPE_CHECKING are those that are made lazily."""
    (block,) = (n for n in ast.parse(inspect.getsource(codeformer_jax)).body if type(n) is ast.If)
    imported = {
        alias.name: node.module.removeprefix("codeformer_jax").removeprefix(".")
        for node in block.body
        for alias in node.names
    }
    modules = dict.fromkeys(codeformer_jax._MODULES, "")
    assert imported == modules | codeformer_jax._OBJECTS


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'restorer'"):
        _ = codeformer_jax.restorer
    with pytest.raises(ImportError):
        from codeformer_jax import nothing  # noqa: F401, PLC0415


def test_the_page_of_names_is_made_from_the_docstrings():
    spec = importlib.util.spec_from_file_location("api_docs", ROOT / "tools" / "api_docs.py")
    api_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api_docs)
    page = api_docs.page()
    assert all(f"## {codeformer_jax.__name__}.{name}\n" in page for name in codeformer_jax._MODULES)
    assert all(f"### {name}\n" in page for name in codeformer_jax._OBJECTS)
    assert page == api_docs.PAGE.read_text(encoding="utf-8"), "run python tools/api_docs.py"


def public_functions(body):
    """Yields the public functions and methods of a syntax tree's body."""
    for node in body:
        if getattr(node, "name", "_").startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef):
            yield node


def undescribed(source):
    """Returns (functions with two arguments or more, those without `Args:`), as names."""
    functions = []
    for node in public_functions(ast.parse(source).body):
        a = node.args
        named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        if len([x for x in named if x.arg not in ("self", "cls")]) >= 2:
            functions.append(node)
    without = [f.name for f in functions if "Args:" not in (ast.get_docstring(f) or "")]
    return [f.name for f in functions], without


def test_functions_without_args_are_found():
    source = '''
def _hidden(a, b): ...
def one(a): ...
def two(a, b): ...
class C:
    def method(self, a, *, b):
        """Does it.

        Args:
            a: an a.
        """
'''
    assert undescribed(source) == (["two", "method"], ["two"])


def test_most_public_functions_describe_their_arguments():
    everything, without = [], []
    for path in sorted((ROOT / "codeformer_jax").rglob("*.py")):
        named, missing = undescribed(path.read_text(encoding="utf-8"))
        everything += named
        without += [f"{path.relative_to(ROOT)}: {name}" for name in missing]
    assert len(without) <= len(everything) / 2, "\n".join(without)

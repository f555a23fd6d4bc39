"""Pins agree with the ranges of pyproject.toml and are complete; the README keeps what it says."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12")


def read_pins(python):
    """{normalised name: version} that constraints.txt gives to one Python version."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker and not pin.marker.evaluate({"python_version": python}):
            continue
        (specifier,) = pin.specifier
        assert specifier.operator == "==", line
        assert canonicalize_name(pin.name) not in pins, f"pinned twice on Python {python}: {line}"
        pins[canonicalize_name(pin.name)] = specifier.version
    return pins


def out_of_range(requirements, pins):
    return [
        f"{requirement}: pinned to {pins.get(canonicalize_name(requirement.name))}"
        for requirement in map(Requirement, requirements)
        if not requirement.specifier.contains(
            pins.get(canonicalize_name(requirement.name), "0.dev0")
        )
    ]


def installed_closure(requirements):
    """Names of all installed distributions that the requirements lead to."""
    names, todo = set(), [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        seen = {(name, wanted) for wanted in ("", *requirement.extras)} - names
        names |= seen
        for _, wanted in seen:
            todo += [(Requirement(text), wanted) for text in metadata.requires(name) or []]
    return {name for name, _ in names}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_lies_in_its_range(python):
    extras = (EXTRAS[name] for name in ("test", "torch", "gcs", "s3", "gcs-test"))
    requirements = [*PROJECT["dependencies"], *itertools.chain(*extras)]
    assert not out_of_range(requirements, read_pins(python))


def test_a_pin_out_of_range_or_missing_is_found():
    pins = {"jax": "0.9.2", "array-record": "0.8.6"}
    problems = out_of_range(["jax>=0.10", "array_record>=0.8.6", "flax>=0.12"], pins)
    assert [problem.split(":")[0] for problem in problems] == ["jax>=0.10", "flax>=0.12"]


def test_everything_that_an_installation_pulls_in_is_pinned():
    # PyTorch is left out: on some machines its builds bring accelerator libraries, which it pins.
    needed = installed_closure([*PROJECT["dependencies"], *EXTRAS["test"]])
    assert {"jax", "jaxlib", "pytest", "promise"} <= needed
    assert not needed - read_pins(PYTHONS[0]).keys()
    assert not needed - read_pins(PYTHONS[1]).keys()


def test_everything_that_buckets_pull_in_is_pinned():
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    needed = installed_closure(EXTRAS["gcs-test"])
    assert {"aiohttp", "google-auth", "google-crc32c"} <= needed
    assert not needed - read_pins(PYTHONS[0]).keys()
    assert not needed - read_pins(PYTHONS[1]).keys()


def test_the_build_is_pinned():
    (setuptools,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert not out_of_range([setuptools, "pip"], read_pins(PYTHONS[0]))


def test_supported_pythons_are_those_of_the_pins():
    requires = Requirement(f"python{PROJECT['requires-python']}").specifier
    minors = [f"3.{minor}" for minor in range(8, 20)]
    assert tuple(python for python in minors if python in requires) == PYTHONS


def test_the_wheel_holds_the_network_and_the_reports(tmp_path):
    sources = tmp_path / "sources"  # setuptools writes build/ beside them.
    tracked = ("pyproject.toml", "README.md", "LICENSE", "codeformer_jax")
    for name in tracked:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        sources.mkdir(exist_ok=True)
        copy(ROOT / name, sources / name)
    wheels = tmp_path / "wheels"
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(sources), *options], check=True)
    (wheel,) = wheels.iterdir()
    files = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    network = ROOT / "codeformer_jax" / "weights" / "photos128.safetensors"
    assert files["codeformer_jax/weights/photos128.safetensors"] == network.stat().st_size
    assert {"codeformer_jax/evaluate/report_template.html", "codeformer_jax/cli/restore.py"} <= set(
        files
    )
    assert not [name for name in files if not name.startswith("codeformer_jax")]


def placeholders(text):
    """Figures that were never filled in, such as @MINUTES@."""
    return re.findall(r"@[A-Z][A-Z0-9_]*@", text)


def local_links(text):
    """Paths, relative to the file, that a Markdown text links to or shows."""
    targets = re.findall(r"\]\(\s*([^)\s]+)", text)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    paths = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    return [path for path in paths if path]


def test_the_readme_is_filled_in():
    assert placeholders((ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_what_the_readme_links_to_exists():
    links = local_links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_placeholders_and_links_are_found():
    text = """![faces](docs/a.png) [rules](B.md#style), [top](#top), [net](https://x.org/c.md)
    it takes @MINUTES@ minutes; mail me@x.org or you@Y.org; <img src="d.png">

[e]: E.md
"""
    assert placeholders(text) == ["@MINUTES@"]
    assert local_links(text) == ["docs/a.png", "B.md", "E.md", "d.png"]

"""Merge `pip freeze` outputs of several Python versions into one constraints file.

    python tools/merge_pins.py 3.11=freeze311.txt 3.12=freeze312.txt > constraints.txt

A pin that all versions share is written once; any other carries a `python_version` marker.
Local version parts (`+cpu`) go: `torch==2.13.0` accepts every build of that release.
"""

import re
import sys
from pathlib import Path

HEADER = """\
# Exact versions of everything that an installation of this project pulls in, per Python version.
# Of the extras [cuda] and [tpu], JAX itself pins libtpu and its plugins and sets the ranges of
# NVIDIA's packages.
# pyproject.toml holds the ranges. CONTRIBUTING.md says how to refresh this file."""


def read_freeze(path):
    """Returns {normalised name: version} of one freeze file without editable and file installs."""
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    pairs = (line.split("==") for line in lines if re.match(r"^[\w.-]+==\S+$", line))
    return {re.sub(r"[-_.]+", "-", name).lower(): pin.split("+")[0] for name, pin in pairs}


def merge(frozen):
    """Returns the lines of the constraints file from {python version: {name: version}}."""
    lines = []
    for name in sorted(set().union(*frozen.values())):
        pins = {python: names.get(name) for python, names in frozen.items()}
        if len(set(pins.values())) == 1:
            lines.append(f"{name}=={pins.popitem()[1]}")
            continue
        lines += [
            f'{name}=={pin} ; python_version == "{python}"' for python, pin in pins.items() if pin
        ]
    return lines


if __name__ == "__main__":
    if len(sys.argv) < 2 or not all("=" in argument for argument in sys.argv[1:]):
        sys.exit(__doc__)
    files = dict(argument.split("=", 1) for argument in sys.argv[1:])
    frozen = {python: read_freeze(path) for python, path in files.items()}
    print(HEADER, *merge(frozen), sep="\n")

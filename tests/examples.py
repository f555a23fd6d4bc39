"""Runs the examples of docstrings."""

import inspect
import re


def run_example(documented, namespace):
    """Returns `namespace` after the indented block in the docstring of `documented`."""
    lines = inspect.getdoc(documented).splitlines()
    block = "\n".join(line for line in lines if not line or line.startswith("    "))
    exec(inspect.cleandoc("\n" + re.sub(r"^    ", "", block, flags=re.M)), namespace)
    return namespace

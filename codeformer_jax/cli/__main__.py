"""`python -m codeformer_jax.cli`: the command, by this Python."""

import sys

from codeformer_jax.cli import run

sys.exit(run())

"""`python -m codeformer_jax.cli`: the command, by this Python."""

from codeformer_jax.cli import run

run()

"""Traces of what a network computes, and their comparison layer by layer."""

from codeformer_jax.compare.comparison import Comparison, assert_close, compare
from codeformer_jax.compare.record import trace
from codeformer_jax.compare.trace import Entry, Trace, TraceError, load

__all__ = ["Comparison", "Entry", "Trace", "TraceError", "assert_close", "compare", "load", "trace"]

"""Evaluation of trained networks: scores per image, a table, and a report with pictures."""

from codeformer_jax.evaluate.evaluation import Evaluation, Pictures
from codeformer_jax.evaluate.evaluator import evaluate
from codeformer_jax.evaluate.report import write_report
from codeformer_jax.evaluate.table import plain_text

__all__ = ["Evaluation", "Pictures", "evaluate", "plain_text", "write_report"]

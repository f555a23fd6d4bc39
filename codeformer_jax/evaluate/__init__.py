"""Evaluation of trained networks: scores per image, a table, and a report with pictures."""

from codeformer_jax.evaluate.evaluation import Evaluation, Pictures
from codeformer_jax.evaluate.evaluator import evaluate

__all__ = ["Evaluation", "Pictures", "evaluate"]

"""Errors of a model file on labelled data."""

from pygschnet.evaluate.command import evaluate
from pygschnet.evaluate.errors import Evaluation, errors_of

__all__ = ["Evaluation", "errors_of", "evaluate"]

"""The metric by which runs are compared."""

from typing import Any


def metric_of(columns: Any) -> str | None:
    """The column of the metric: accuracy, or of text bits a byte or perplexity."""
    known = ("test_accuracy", "valid_bpc", "valid_perplexity", "test_loss")
    return next((name for name in known if name in columns), None)


def factor_of(metric: str) -> int:
    """What a metric is multiplied by where people read it: 100 for percent."""
    return 100 if metric.endswith("accuracy") else 1


def label_of(metric: str) -> str:
    """What stands beside its axis.

    >>> label_of("test_accuracy"), label_of("valid_bpc")
    ('test accuracy (%)', 'valid bpc')
    """
    unit = " (%)" if factor_of(metric) == 100 else ""
    return f"{metric.replace('_', ' ')}{unit}"

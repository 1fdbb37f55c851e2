"""Downstream tasks on a system: answer space, head, loss, metric, prediction file."""

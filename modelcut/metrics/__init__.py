"""Metrics of predictions, and limits on them."""

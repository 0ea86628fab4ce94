"""Steps that put the statistics of layers right after other steps have changed weights."""

SUMMARY = "Match the statistics of the layers' outputs to the original network's."
DEFAULT = "statistics"

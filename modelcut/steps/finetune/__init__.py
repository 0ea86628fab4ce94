"""Training under constraints: pruned weights stay zero."""

SUMMARY = "Fine-tune; pruned weights stay zero."
DEFAULT = "straight_through"

"""Steps that take out layers without which the network computes the same."""

SUMMARY = "Remove layers that compute nothing."
DEFAULT = "identity"

"""Training in the loop: what was cut stays cut."""

SUMMARY = "Train on, keeping what was cut."
DEFAULT = "straight_through"

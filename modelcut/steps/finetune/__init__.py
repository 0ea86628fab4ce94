"""Training in the loop: what was cut stays cut."""

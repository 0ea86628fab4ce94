"""Recipes: YAML to steps, options and gates."""

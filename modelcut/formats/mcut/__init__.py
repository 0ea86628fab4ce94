"""The packed format `.mcut`."""

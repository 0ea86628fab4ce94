"""File formats: one subpackage per family; `registry` finds a format by content or by name."""

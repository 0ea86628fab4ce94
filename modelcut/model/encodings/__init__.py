"""The encodings that have codes: one file per kind, found by `encoding.from_record`."""

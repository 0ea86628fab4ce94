"""Child processes that run an engine, and the protocol between them."""

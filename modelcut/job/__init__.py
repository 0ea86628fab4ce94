"""One job, from the request to published files."""

"""The HTTP API for users and administrators."""

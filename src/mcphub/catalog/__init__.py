"""Server specs, pinned packages and tool catalogs."""

"""Per-user credentials, sealed at rest."""

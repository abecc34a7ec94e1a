"""Running servers, one per user: spawners, sandbox, pool."""

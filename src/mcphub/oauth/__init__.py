"""The hub as OAuth client of servers that require it: each user connects an own account."""

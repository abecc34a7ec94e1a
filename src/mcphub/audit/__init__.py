"""Request records, spans of calls, and the audit log."""

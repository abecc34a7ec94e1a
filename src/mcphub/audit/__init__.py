"""Request records and the audit log."""

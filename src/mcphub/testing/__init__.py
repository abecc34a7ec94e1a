"""Fakes and stand-ins that pass the real ones' contracts."""

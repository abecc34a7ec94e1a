"""Policy: pure decisions. `decide()` answers a `Permit` or a `Denial(reason, rule)`, with a trace."""

"""Network of instances: one gateway process decides, by name, where each instance may connect."""

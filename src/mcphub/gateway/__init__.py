"""The data plane: endpoint, relay, sessions."""

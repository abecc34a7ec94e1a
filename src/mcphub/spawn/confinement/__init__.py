"""The hub's own sandbox: plain system calls from Python, without a helper program on the machine."""

"""Each rule's guard, taken away on a copy of the source: the test that watches it must fail."""

"""`python -m mcphub.testing.demo`: prove the isolation with real servers, two users and a real client.

Every scenario is played twice by the same steps: over one shared server process, as most teams run
it, and through the hub. What leaked is computed from what came back: canaries and tokens are random
in every run. Not a test suite (`tests/e2e` runs it as one) and no part of the hub.
"""

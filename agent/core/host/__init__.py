"""One host's decision: what its slots should hold, and which actions are safe now. Knows nothing of rollouts."""

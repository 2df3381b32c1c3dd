"""The agent's own HTTP API on loopback."""

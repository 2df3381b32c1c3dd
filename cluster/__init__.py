"""The local cluster in docker compose, the demo, and the servers and traffic shared with tests and benchmarks."""

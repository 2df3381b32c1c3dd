"""Deploy under traffic and say what became of it: on the cluster, or on one host without machines of its own."""

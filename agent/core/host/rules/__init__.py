"""The rules of a host's decision: each looks at what the rules before it planned, and returns what it adds."""

"""What a machine of the stack does by itself: it boots into its role, and a Consul server leaves again."""

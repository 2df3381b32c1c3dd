"""What an instance of the stack does by itself: boot into its role; a Consul server leaves, too. Needs [infra]."""

"""What a command that moves a fleet does: ask, submit, and follow the rollout."""

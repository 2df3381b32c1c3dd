"""The loop of one coordinator: lead, watch the fleet, advance the rollout."""

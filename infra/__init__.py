"""The AWS stack, its DNS names and what its machines do at boot; knows nothing of the agent."""

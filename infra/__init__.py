"""The AWS stack and its DNS names: what an operator's desk does. Knows nothing of the agent."""

"""The AWS stack; knows nothing of the agent."""

"""HAProxy through its runtime socket, and the files that it shares with the agent."""

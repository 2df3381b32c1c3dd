"""The loop of a cloud instance: follow its group from launch to end."""

"""The decision on a cloud instance's life-cycle: what its group is told, and when."""

"""``tidegate doctor``: look at everything an agent depends on, and say what to do about what is wrong."""

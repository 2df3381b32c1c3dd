"""Time as the loops see it: one clock, one back-off; adapters and runtime share them."""

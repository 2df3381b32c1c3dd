"""Adapters: one outside system per file, thin; answers and errors translated to the core's words."""

"""Consul over HTTP: one client, and what is read and written with it."""

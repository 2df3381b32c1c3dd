"""Steady mixed traffic to a site, what came of each request, and what that proves."""

"""Measurements of speed and memory (`make bench`); they report, and fail no test."""

"""The loop of one app on one host: observe, decide, apply, report."""

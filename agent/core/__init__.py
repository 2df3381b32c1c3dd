"""
The pure core: what is wanted, what is seen, and what to do about it.

Imports only the standard library and pydantic; does no I/O, reads no clock, writes no log.
"""

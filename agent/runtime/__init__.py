"""The loops: they carry what is seen to the core and what it decides to the adapters."""

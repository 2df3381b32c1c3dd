"""The Tidegate agent: one asyncio process per host that deploys releases without losing a request."""

__version__ = "0.1.0"

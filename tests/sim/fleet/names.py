"""The one app of the simulated fleet."""

from agent.core.model.names import AppName

APP = AppName("cs90")

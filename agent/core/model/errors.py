"""
The error tree. An error carries its verdict: retry it, give this attempt up, or end the process.

Adapters translate what their libraries raise into these and chain the cause; nothing above the
adapters knows an error of aiohttp or aiodocker.
"""


class TidegateError(Exception):
    """Base of every error Tidegate raises on purpose; its text is fit for an operator to read."""


class TransientError(TidegateError):
    """May pass by itself (a daemon restarting, no answer in time): look again later."""


class PermanentError(TidegateError):
    """Will not pass by itself (refused, invalid, not found): give this attempt up and say why."""


class FatalError(TidegateError):
    """The process cannot go on (bad settings); the message names the field."""


class ConsulUnavailableError(TransientError):
    """Consul gave no usable answer: refused, timed out, 5xx, no leader."""


class ConsulForbiddenError(PermanentError):
    """Consul answered 403: the token is missing, revoked or lacks the right."""


class HaproxyUnavailableError(TransientError):
    """The runtime socket is absent, refused, or did not answer in time."""


class HaproxyRefusedError(PermanentError):
    """HAProxy answered a command with an error text."""


class DockerUnavailableError(TransientError):
    """The Docker daemon is away or did not answer in time."""


class DockerRefusedError(PermanentError):
    """The Docker daemon refused a request; the message is the daemon's own."""


class AddressTakenError(TransientError):
    """Another container holds a slot's fixed address; it works once that one is gone."""


class ImagePullError(TransientError):
    """A pull failed in a way that may pass: registry away, connection lost, no progress."""


class ImageRefusedError(PermanentError):
    """The registry or daemon refuses the image: unknown tag, unauthorised, wrong architecture."""


class Ec2UnavailableError(TransientError):
    """The metadata service or AWS gave no usable answer: away, throttled, 5xx."""


class Ec2RefusedError(PermanentError):
    """AWS refused a call: no right, or nothing waits for it any more."""

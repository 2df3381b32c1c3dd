"""What can go wrong, in words for the person at the terminal."""


class InfraError(Exception):
    """One clear line; the command ends with exit code 1."""


class ConfigError(InfraError):
    """An environment is not valid; each line names a field."""


class AwsError(InfraError):
    """AWS refused, or did not answer."""


class AwsMissingError(AwsError):
    """What was asked for does not exist."""


class AwsTakenError(AwsError):
    """What was to be made is there already."""

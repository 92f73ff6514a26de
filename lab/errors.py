"""The one error that the lab raises."""


class LabError(Exception):
    """Something about the lab that a person can act on; the message is one or two plain sentences."""

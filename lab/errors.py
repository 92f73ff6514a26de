"""The errors that the lab raises."""


class LabError(Exception):
    """Something about the lab that a person can act on; the message is one or two plain sentences."""


class LabUnreachableError(LabError):
    """There is no such lab, it does not answer, or one of its servers did not come up."""

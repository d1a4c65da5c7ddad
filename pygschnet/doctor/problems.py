"""Something to tell the user, with the remedy."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A problem that was found.

    Attributes:
        text: what it is, and the remedy.
        broken: whether something does not work or is wrong, rather than merely missing or slow.
    """

    text: str
    broken: bool

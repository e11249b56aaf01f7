"""Example lines under the help of a command."""


def examples(*lines: str) -> str:
    """The epilog of a command's help: each line one command line, as it would be typed."""
    return "\n\n".join(("For example:", *lines))

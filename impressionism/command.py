"""What a command of any room answers where it does not come to its end."""

import sys
from collections.abc import Callable


def status_of(command: Callable[[], int], *problems: type[Exception]) -> int:
    """The command's exit status; its problems, and Ctrl-C, become a sentence instead of a traceback."""
    try:
        return command()
    except problems as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What was saved stays; the same command goes on from there.", file=sys.stderr)
        return 130

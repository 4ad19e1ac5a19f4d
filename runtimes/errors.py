"""The one exception a user can fix, its exit codes, and how a command ends.

Owns: UserError, the exit codes of the command line, `finish`. Does not own: what went wrong, which each module says for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

DONE = 0
FAILED = 1
USAGE = 2
PARITY = 3
BUDGET = 4
MISSING = 5
INTERRUPTED = 130


class UserError(Exception):
    """Something the user can fix; the message says what was found, what was expected and what to do."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def finish(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; a UserError becomes one line on stderr, never a traceback."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:  # the base install runs on devices; the workshop is an extra
        print(f"error: {error.name} is not installed; pip install 'rd-distill[train]'", file=sys.stderr)
        return MISSING
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command with --resume goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except OSError as error:  # a full disk, a read-only folder: the user's to mend, and nothing was half-written
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}; nothing finished was lost, mend this and repeat with --resume",
              file=sys.stderr)
        return FAILED

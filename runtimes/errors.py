"""The one exception a user can fix, its exit codes, and how a command ends.

Owns: UserError, the exit codes of the command line, `finish`. Does not own: what went wrong, which each module says for itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from runtimes.streams import open_streams
from runtimes.text import printable

DONE = 0
FAILED = 1
USAGE = 2
PARITY = 3
BUDGET = 4
MISSING = 5
INTERRUPTED = 130
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation")


class UserError(Exception):
    """Something the user can fix; the message says what was found, what was expected and what to do."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def finish(command: Callable[[], int], *, resumes: bool = False) -> int:
    """Run a command and return its exit code; whatever ends it early becomes one line on stderr, never a traceback.

    resumes: whether the same command with --resume goes on from what it has done.
    """
    open_streams()
    outcome = "what was finished is kept; the same command with --resume goes on" if resumes else "nothing was left half-written"
    try:
        return command()
    except UserError as error:
        return _ended(str(error), error.exit_code)
    except ModuleNotFoundError as error:  # the base install runs on devices; the workshop is an extra
        return _ended(f"{error.name} is not installed; pip install 'rd-distill[train]'", MISSING)
    except ImportError as error:  # there, but a library below it cannot be loaded: damaged, of another system, or memory is short
        what = error.name or "a package"
        return _ended(f"{what} is installed and cannot be loaded ({_first_line(error)}); install it again, or give the process more memory",
                      MISSING)
    except KeyboardInterrupt:
        print(f"interrupted: {outcome}", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        return _out_of_memory(error, outcome)
    except OSError as error:  # a full disk, a read-only folder: the user's to mend
        where = f" ({error.filename!s})" if error.filename else ""
        return _ended(f"{error.strerror or error}{where}; {outcome}", FAILED)
    except Exception as error:
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            return _out_of_memory(error, outcome)
        return _ended(f"{_program()} met something it has no answer to: {type(error).__name__}: {_first_line(error)}; {outcome}. "
                      f"{_log(error)}", FAILED)


def _ended(message: str, exit_code: int) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return exit_code


def _out_of_memory(error: BaseException, outcome: str) -> int:
    return _ended(f"memory ran out ({_first_line(error) or type(error).__name__}); {outcome}. Give the process more, or ask for less at "
                  "once (smaller images, a smaller --batch, fewer --threads)", FAILED)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else ""


def _program() -> str:
    return Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "the command"


def _log(error: BaseException) -> str:
    """Write the traceback where it is out of the way, and say where; a reader of the log sees what a reader of the line need not."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{_program()}-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError as failure:
        return f"Its traceback could not be kept ({failure.strerror})"
    return f"The traceback is in {name}: please report it"

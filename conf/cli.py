"""How every command ends: one clear sentence on an error, and an exit code that tells the truth."""

import errno
import os
import sys
import traceback
from collections.abc import Callable


def entry_point(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit with its code; 2 and one sentence on stderr for bad input or a failing disk.

    ``ValueError`` and ``OSError`` are how the packages report what a user can mend, ``ImportError`` how a library asks
    for an optional one. Anything else is a defect and keeps its traceback. Set ``OPENLVD_TRACEBACK=1`` to see the
    traceback of every error.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has stopped
        code = 141  # as a shell reports SIGPIPE
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("OPENLVD_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        code = 130
    try:
        sys.stdout.flush()
    except OSError:  # reported above; keep the interpreter from trying again, and complaining, as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    subject = f"{error.filename}: " if error.filename is not None else ""
    remedy = "; make room and run the same command again: it continues" if error.errno == errno.ENOSPC else ""
    return f"{subject}{error.strerror}{remedy}"

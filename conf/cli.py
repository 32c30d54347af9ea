"""How every command ends: one clear sentence on an error, and an exit code that tells the truth."""

import os
import sys
import traceback
from collections.abc import Callable


def entry_point(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit with its code; 2 and one sentence on stderr for bad input or a failing disk.

    ``ValueError`` and ``OSError`` are how the packages report what a user can mend. Anything else is a defect
    and keeps its traceback. Set ``OPENLVD_TRACEBACK=1`` to see the traceback of every error.
    """
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("OPENLVD_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        code = 130
    sys.stdout.flush()
    sys.exit(code or 0)

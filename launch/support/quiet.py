"""Imports TensorFlow without what its C++ side writes to the terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from launch.support.errors import UserError


@contextlib.contextmanager
def quiet_start(verbose: bool = False) -> Iterator[None]:
    """Hides what native libraries write to stderr while they are loaded.

    TensorFlow logs before its log level counts ("All log messages before
    absl::InitializeLog() ..."), so the variable alone does not silence it. The file
    descriptor is diverted for the time of the block and what was written is shown
    again if the block raises, so that no cause of an error is lost; a `UserError` says
    it all by itself.

    Args:
      verbose: leave everything as it is.
    """
    if verbose:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException:
            sys.stderr.flush()
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)

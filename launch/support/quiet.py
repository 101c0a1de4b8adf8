"""Imports TensorFlow without the messages of its C++ code."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from launch.support.errors import UserError


@contextlib.contextmanager
def quiet_start(verbose: bool = False) -> Iterator[None]:
    """Hides the messages that native libraries write to stderr while they are loaded.

    TensorFlow logs before it reads its log level ("All log messages before
    absl::InitializeLog() ..."), so the environment variable alone does not silence it.
    The file descriptor is redirected within the block. If the block raises, the messages
    are shown, so that the cause of an error is not lost. A `UserError` needs none.

    Args:
      verbose: hide nothing.
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

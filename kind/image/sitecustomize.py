"""Lets SIGTERM end a container from its first moment; Python runs this before anything else.

The first process of a container ignores a signal that it has no handler for. A server sets its own once it is
imported, seconds later: until then a stop would last the whole grace period and end with SIGKILL.
"""

import os
import signal

if os.getpid() == 1:
    # Nothing has been served or written yet.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))

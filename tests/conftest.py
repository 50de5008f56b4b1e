"""What holds for every test: time judges no property, the width is that of a pipe, Ctrl-C works."""

import os
import signal

from hypothesis import settings

os.environ.pop("COLUMNS", None)  # pytest-xdist passes its own terminal's width on

# What runs the tests in the background may have SIGINT ignored, and commands would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dpamt", deadline=None)
settings.load_profile("dpamt")

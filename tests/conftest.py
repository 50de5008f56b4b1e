"""What holds for every test: time judges no property, and the width is that of a pipe."""

import os

from hypothesis import settings

os.environ.pop("COLUMNS", None)  # pytest-xdist passes its own terminal's width on

settings.register_profile("dpamt", deadline=None)
settings.load_profile("dpamt")

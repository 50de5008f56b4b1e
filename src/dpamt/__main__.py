"""`python -m dpamt`."""

import sys

from dpamt.cli.main import main

sys.exit(main())

"""`python -m fedpoison`: the command line."""

import sys

from fedpoison.cli import main

sys.exit(main())

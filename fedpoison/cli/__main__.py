"""`python -m fedpoison.cli`."""

import sys

from fedpoison.cli import main

sys.exit(main())

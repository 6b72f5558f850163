"""``python -m rxcohere``."""

import sys

from rxcohere.cli import main

sys.exit(main())

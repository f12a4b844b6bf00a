"""`python -m neuroscope`, and what the command `neuroscope` starts: see `command_line/`."""
# PYTHON_ARGCOMPLETE_OK

import sys

from neuroscope.command_line.running import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m interp_cnn` is `interp-cnn`."""

import sys

from interp_cnn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

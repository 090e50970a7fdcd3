"""`python -m benchmarks`: the service's rate beside the bare model's, on this machine."""

import sys

from benchmarks.service import main

if __name__ == "__main__":
    sys.exit(main())

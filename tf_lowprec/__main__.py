"""python -m tf_lowprec: the tf-lowprec command."""

import sys

from tf_lowprec.cli import main

if __name__ == "__main__":
    sys.exit(main())

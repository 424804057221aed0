"""`python -m laconic`."""

import sys

from laconic.commands import main

sys.exit(main())

"""``python -m sealserve.serving``: the same program as ``sealserve-model-server``."""

import sys

from sealserve.serving import main

sys.exit(main())

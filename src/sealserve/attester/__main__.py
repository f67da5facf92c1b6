"""``python -m sealserve.attester``: the program of an enclave with its own keys."""

import sys

from sealserve.attester.program import main

sys.exit(main())

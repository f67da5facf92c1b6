"""``python -m sealserve`` is the same as ``sealserve``."""

from sealserve.cli import main

main()

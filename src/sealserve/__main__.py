"""Entry point of ``python -m sealserve``, which is the same as ``sealserve``."""

from sealserve.cli import main

main()

"""``python -m proponent.cli``."""

from proponent.cli.main import main

main()

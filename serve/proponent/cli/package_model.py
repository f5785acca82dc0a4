"""The script that packages a model's current bundle for a TorchServe of the user's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from proponent.errors import ProponentError
from proponent.gateway.torchserve.archive import package
from proponent.index.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Packages a model and prints the archive's path; an error is one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="scripts/package_model", description="Package a model's current bundle for a TorchServe of your own."
    )
    parser.add_argument("store", type=Path, help="directory of bundles")
    parser.add_argument("model")
    parser.add_argument("out", type=Path, help="model store of a TorchServe")
    options = parser.parse_args(arguments)
    try:
        print(package(Store(options.store), options.model, options.out).path)
    except ProponentError as error:
        print(f"error: {error.message} [{error.reason}]", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The check of a folder before it is sent to Hugging Face Spaces: `python -m studio.spaces_check FOLDER`."""

from __future__ import annotations

import sys

from studio.server.spaces_check import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

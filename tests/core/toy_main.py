"""The toy's console command; a module of its own, so that its classes are registered once."""

from __future__ import annotations

import sys

import toy

if __name__ == "__main__":
    sys.exit(toy.run())

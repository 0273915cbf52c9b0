"""setuptools' build backend, with one change for checkouts.

A domain package in a checkout requires `sagittal-core @ file://.../packages/core`, and pip installs
such a requirement as a snapshot. So in a checkout build_wheel returns an editable wheel, and core
stays live. SAGITTAL_NO_LOCAL_DEPS=1, or a source tree without .git, gives an ordinary wheel.
"""

import os
from pathlib import Path

from setuptools import build_meta as _setuptools
from setuptools.build_meta import *

_CHECKOUT = Path(__file__).resolve().parents[3]
_LIVE = (_CHECKOUT / ".git").exists() and os.environ.get("SAGITTAL_NO_LOCAL_DEPS") != "1"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    build = _setuptools.build_editable if _LIVE else _setuptools.build_wheel
    return build(wheel_directory, config_settings, metadata_directory)

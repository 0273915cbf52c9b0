import os
from pathlib import Path

from setuptools import setup

core = Path(__file__).resolve().parents[1] / "core"
local = core.is_dir() and os.environ.get("SAGITTAL_NO_LOCAL_DEPS") != "1"
setup(
    install_requires=[
        f"sagittal-core[encoders,llm,store,volumes] @ {core.as_uri()}"
        if local
        else "sagittal-core[encoders,llm,store,volumes]>=0.1,<0.2",
        "scikit-learn>=1.4",
    ]
)

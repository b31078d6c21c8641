"""Whether transformers' own switches of adapters work with the PEFT that is there.

transformers may ask for a PEFT that is not published yet (5.24 asks for 0.22 while 0.21.2 is the newest).
"""

import importlib.metadata

import pytest
from packaging.version import Version
from transformers.integrations import peft as integration

WANTED = integration.MIN_PEFT_VERSION
try:
    INSTALLED = importlib.metadata.version("peft")
except importlib.metadata.PackageNotFoundError:
    INSTALLED = "0"
needs_adapter_switches = pytest.mark.skipif(
    Version(INSTALLED) < Version(WANTED), reason=f"transformers switches adapters with PEFT {WANTED} or later"
)

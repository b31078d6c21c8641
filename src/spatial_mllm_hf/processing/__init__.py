"""Decoding, frame sampling and the processor. Files here import only their siblings (see `modeling/__init__.py`)."""

import transformers.models.auto.processing_auto as _processing_auto  # noqa: F401 - registers first
import transformers.models.auto.video_processing_auto as _video_processing_auto  # noqa: F401 - registers first

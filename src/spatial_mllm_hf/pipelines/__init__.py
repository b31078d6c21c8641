"""The pipeline. Files here import only their siblings (see `modeling/__init__.py`)."""

import transformers.pipelines as _pipelines  # noqa: F401 - registers first, see modeling/__init__.py

"""A directory becomes a served model."""

import os

# ONNX Runtime >= 1.31 sends telemetry and writes to the home folder unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

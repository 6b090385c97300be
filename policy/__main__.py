"""The policy pack: adapts the rules to Pulumi's engine, and knows nothing of its own."""

import sys
from pathlib import Path

# Pulumi runs this folder as a program; the rules import each other by the package's name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policy.pack import start

start()

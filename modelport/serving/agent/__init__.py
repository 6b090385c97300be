"""The agent beside each Triton: makes it serve the desired version, in the one safe order."""

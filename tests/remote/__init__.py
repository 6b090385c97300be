"""A package, so that its stack goes with the last of its tests and not with those of the whole session."""

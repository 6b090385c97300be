"""A package, so that its stacks go down with the last of its tests and not with those of the whole session."""

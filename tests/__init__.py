"""Tests, by the part of the tree that they are of."""

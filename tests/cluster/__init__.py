"""Clusters on this machine. A package also so that the one that tests share goes with the last of them."""

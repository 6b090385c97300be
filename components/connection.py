"""Where a pod finds how it reaches the platform: one file of a mounted Secret."""

FILE = "connection.json"
"""The Secret's key, and the file's name."""
MOUNT = "/etc/modelport"
"""Folder of what a pod is told."""

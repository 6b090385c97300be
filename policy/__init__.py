"""Rules that every resource of a stack must keep: importable for tests, and as a Pulumi policy pack."""

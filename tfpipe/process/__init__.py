"""Processes: children that end with their parent, the exit status of a command, progress on stderr."""

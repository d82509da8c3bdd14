"""Child processes that end with their parent, the exit status of a command, and progress on stderr."""

"""The command line: the entry point, and how arguments are read. The commands are in `tfpipe.commands`."""

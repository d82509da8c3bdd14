"""The commands of `tfpipe`, one module each: `HELP`, `add_arguments(parser)`, `run(args) -> int`."""

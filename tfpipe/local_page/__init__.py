"""Pages that a command serves on this machine: the web server on loopback, and who may use it."""

"""Files, local or at a URL: read in the same way everywhere, written whole or not at all, and locked."""

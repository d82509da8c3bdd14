"""Files, local or at a URL: written whole or not at all, locked, and read the same way wherever they are."""

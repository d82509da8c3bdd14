"""The studio: a page on this machine to hear and change sounds with an exported model."""

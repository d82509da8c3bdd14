"""Checks of a running server: does it speak the protocol, and does its model answer."""

"""Servers that tests start in place of those that cannot be had here."""

"""Channels that say nothing, removed with nothing else changed."""

"""Targets in time: layers timed at several widths, models timed against each other, and the aim corrected."""

"""Tests, their strategies and the harness that tests every rule."""

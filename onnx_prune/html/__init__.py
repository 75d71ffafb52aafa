"""The report as a page for a browser: one file, with nothing to be fetched."""

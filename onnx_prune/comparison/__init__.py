"""Two models side by side: how far their answers are apart, what they cost, how fast they run."""

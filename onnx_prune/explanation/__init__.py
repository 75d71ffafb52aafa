"""What can be cut, what is held, and by which nodes."""

"""How a command behaves and what its page looks like; knows nothing about pruning."""

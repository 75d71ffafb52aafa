"""The proof that the cut model computes what the masked original does."""

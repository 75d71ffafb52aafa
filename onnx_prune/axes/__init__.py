"""The algebra: what dimensions are made of, how operators tie them, and how they are made to meet."""

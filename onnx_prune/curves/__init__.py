"""How a model takes to losing channels of one group alone, at several ratios, and what follows for all."""

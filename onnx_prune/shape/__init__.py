"""Shapes, and the arithmetic on shapes that is computed ahead."""

"""What inputs without labels are good for: choosing channels, and recovering accuracy after the cut."""

"""Single weights set to zero: criteria, patterns, masks, schedules and tickets."""

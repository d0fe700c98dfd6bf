"""What a run will be, told before any weight is loaded."""

"""Forms in which a version leaves the house."""

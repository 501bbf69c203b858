"""Data sets and generators of the judge: `base` says what they yield, `catalogue` has them by name."""

"""Data sets and generators of the judge: `nestmem.evals.datasets.base` says what they yield."""

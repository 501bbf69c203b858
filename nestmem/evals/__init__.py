"""Evaluations: a data set, a system, a scorer, and numbers with their intervals."""

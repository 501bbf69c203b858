"""Sequence models compared: the same data in the same order, parameters, steps and tuning for each, and a report."""

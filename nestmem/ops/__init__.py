"""The rules of core in fast form, one folder each: the loop (naive), the fast form (chunk) and the derivation."""

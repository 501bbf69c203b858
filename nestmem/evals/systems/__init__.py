"""What is judged: memories, retrievers, and what they are compared with, behind the protocol of `base`; `catalogue`
has them by name."""

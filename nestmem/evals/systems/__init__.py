"""What is judged: memories, retrievers, and what they are compared with, behind one protocol."""

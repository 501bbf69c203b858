"""Training of the embedded model: `mini` (language, reading, writing) and `meta` (through its own writes)."""

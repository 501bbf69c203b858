"""Fast-weight banks on frozen Hugging Face language models.

`sites` finds the feed-forward layers, `banks` runs the model with banks and takes keys and errors, `rules` turns
examples into banks (additive, recursive least squares, TMEM), `fast_weights` is the whole behind plain values,
`peft` exchanges banks with PEFT LoRA folders.
"""

"""The controller: observe, recall, answer, learn, forget. Never imports torch.

Read `controller.py` first; `extract.py` says what is worth learning; `types.py` is what the
controller asks of a model (`Learner`), of an embedder and of an LLM endpoint.
"""

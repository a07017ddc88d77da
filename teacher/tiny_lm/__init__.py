"""The tiny language model: how it is trained from scratch, its weights and its card.

It is a stand-in so that everything runs offline: about a million parameters that know nothing but these tasks.
"""

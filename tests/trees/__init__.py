"""Mutated folders of pictures, and what an index of them must hold."""

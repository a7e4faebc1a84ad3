"""How similar two images are, and losses on it: pure functions of tensors and arrays."""

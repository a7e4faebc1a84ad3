"""Frozen features: extracted once, kept on disk, and the teachers that are fitted to them."""

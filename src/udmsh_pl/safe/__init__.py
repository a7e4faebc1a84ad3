"""Whole files or none, limits on what comes from strangers, and limited child processes."""

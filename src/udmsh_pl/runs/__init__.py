"""Runs of a plan: its cells, the processes that share them, and Lightning's command line."""

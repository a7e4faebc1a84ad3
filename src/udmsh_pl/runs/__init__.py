"""Runs of a plan: its cells, their results, the processes that share them, and Lightning's command line."""

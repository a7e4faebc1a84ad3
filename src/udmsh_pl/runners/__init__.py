"""Running a plan: what a configuration builds, its cells, and the processes that share them."""

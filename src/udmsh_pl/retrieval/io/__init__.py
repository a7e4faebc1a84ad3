"""Codes and indexes in files, from this package and from anywhere; nothing is ever unpickled."""

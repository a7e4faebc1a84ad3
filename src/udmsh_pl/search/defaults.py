"""What a search does where nobody says otherwise; the command line reads it before NumPy."""

SHORTLIST = 1000  # nearest codes that are ordered by their features

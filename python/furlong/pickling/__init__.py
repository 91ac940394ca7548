"""Functions, arguments and values as pickles for engines."""

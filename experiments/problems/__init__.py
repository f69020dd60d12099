"""The reference problems, one a file. `..registry` finds them here."""

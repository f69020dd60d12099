"""Accurate numerical solutions of the problems that have none in closed form.

Each is computed when it is first asked for, in at most a few seconds: shipped data would be another
thing to trust, and holds for one parameter alone.
"""

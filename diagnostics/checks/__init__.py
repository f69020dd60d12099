"""The questions that a diagnosis answers, one small module a family.

A check is a function from `Measurements` to an `Outcome`: a row of the verdict table, and findings.
It says what was measured before it says what that may mean, and each number that it compares with
is a named constant with a reason. `diagnosis.py` lists them in their order.
"""

"""Whether what is committed follows from the committed metrics, and one arm from the code.

`derive` renders tables, claims and documents anew and compares; `rerun` computes an arm of a chain
and compares its metrics within a tolerance that is stated there.
"""

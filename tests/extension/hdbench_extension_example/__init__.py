"""A package outside hdbench that adds one of each kind of thing.

Each is a class of hdbench's contract, named by an entry point in pyproject.toml; suite.yaml uses
all of them.
"""

"""How far a suite is, from the results folder alone."""

"""Whether the files and packages that a suite needs from outside are there."""

"""Evaluation of any images under named protocols: samples -> features -> metrics."""

"""Evaluation of any images under a named protocol: samples -> features, once -> every metric with
its interval.
"""

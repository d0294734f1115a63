"""Networks: the diffusion transformer and the classifier of the small tier; their sizes are
configuration.
"""

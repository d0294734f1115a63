"""Networks of every tier; their sizes are configuration."""

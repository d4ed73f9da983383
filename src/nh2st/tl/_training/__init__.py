"""Training of a network on sections."""

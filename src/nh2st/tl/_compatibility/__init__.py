"""Whether sections and tables fit a model."""

"""Cross-validation, fold by fold."""

"""Prediction of sections and slides."""

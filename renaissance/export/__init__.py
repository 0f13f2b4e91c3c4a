"""Exporting a trained model: folders and files that other programs load."""

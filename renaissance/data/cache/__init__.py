"""What is computed of an image once, and kept on disk."""

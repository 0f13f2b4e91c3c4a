"""`renaissance serve`: a page on this machine that asks a trained model."""

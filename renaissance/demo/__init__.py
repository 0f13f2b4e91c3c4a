"""The demo: train a tiny two-tower model on drawn shapes, then compare with blank images."""

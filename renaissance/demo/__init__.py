"""The demo: train a tiny two-tower model on drawn shapes, with the pictures and blind."""

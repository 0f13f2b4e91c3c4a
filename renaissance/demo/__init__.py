"""The demo: train a tiny two-tower model on drawn shapes, then take its sight away."""

"""What a plugin implements, one module per kind, and the values that pass between components."""

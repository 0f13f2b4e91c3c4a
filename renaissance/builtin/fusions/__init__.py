"""Built-in fusion modules."""

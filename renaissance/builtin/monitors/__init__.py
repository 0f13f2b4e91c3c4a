"""The built-in monitors: on the console, as JSON lines, in TensorBoard."""

"""Between a file and an array on a `Grid`. Patient space is RAS+ millimetres inside; LPS+ stays at these doors."""

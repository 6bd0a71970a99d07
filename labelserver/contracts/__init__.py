"""What can be replaced, a page each."""

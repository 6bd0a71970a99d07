"""Interactive sessions on the server's side: who has which image open, what was drawn, and its log on disk."""

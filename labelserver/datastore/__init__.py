"""Images and labels: the local folder with its SQLite index, label revisions, and uploads for one-off inference."""

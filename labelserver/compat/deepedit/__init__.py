"""Clicks for one label (``monailabel.deepedit``)."""

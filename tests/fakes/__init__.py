"""Stand-ins for contracts, written once and used everywhere."""

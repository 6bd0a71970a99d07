"""Values of the trade: ids, geometry, labels, requests, jobs, model versions and the error tree.

Nothing here reads a file, opens a socket or knows a library beyond numpy. Every other room may import this one.
"""

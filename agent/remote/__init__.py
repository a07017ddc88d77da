"""Agents behind a policy server: what goes over the wire, and clients. Nothing here imports the server."""

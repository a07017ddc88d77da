"""Trained agents behind HTTP and WebSocket: sessions of play, each with a clock and a generator of its own."""

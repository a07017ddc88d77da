"""A page in the browser on which a person answers questions, for whoever hands over a session."""

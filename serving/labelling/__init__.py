"""A page in the browser on which a person answers the questions of a session."""

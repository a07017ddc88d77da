"""A language model from a folder behind the OpenAI protocol, on the CPU, in the trainer's own environment."""

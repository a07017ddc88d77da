"""HALO: options from demonstrations, by an exact posterior, its fit, and questions where they help."""

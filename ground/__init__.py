"""What every room stands on: errors, files that are whole or absent, the device of networks, level seeds."""

"""Wing beside gp: `lstsq` for other array libraries, one module each, imported on its own."""

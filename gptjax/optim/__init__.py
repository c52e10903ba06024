"""Optimisation through Optax: schedules, masks, transforms and the optimiser they make. Sees parameter trees only."""

"""The search: controller, samplers, schedulers, journal, budget, failures, and Ray."""

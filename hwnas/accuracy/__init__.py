"""How accurate a network would become: proxies, a surrogate that learns from trainings, and short trainings (docs/accuracy.md)."""

"""The gateway: REST in front of Triton, with keys, limits, and a record of every prediction."""

"""A Flower app: five hospitals train a logistic regression, and the server sees noised sums only."""

"""A Flower app in torch over a masked sum: the client's train function is that of any torch app."""

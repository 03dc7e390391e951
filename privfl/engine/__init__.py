"""How client training is executed."""

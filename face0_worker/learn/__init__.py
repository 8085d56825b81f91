"""Learning: data sets, training and the model that ships. Floor 3: may import render and contract."""

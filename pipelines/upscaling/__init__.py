"""Pictures made larger by a network: the shipped ones, and published ones from the models folder."""
